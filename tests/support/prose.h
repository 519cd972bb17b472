// Plain English of any length from a seed, for prompts to models with real weights.
#ifndef RETENTIVEKV_TESTS_SUPPORT_PROSE_H_
#define RETENTIVEKV_TESTS_SUPPORT_PROSE_H_

#include <fmt/format.h>

#include <string>

#include "base/random.h"

namespace rkv {

inline std::string Prose(uint64_t seed, size_t n_sentences) {
  constexpr const char* kWho[] = {"The keeper of the lighthouse", "A young carpenter",
                                  "The doctor from the village",  "My grandmother",
                                  "The captain of the ferry",     "An old teacher",
                                  "The baker's daughter",         "A travelling musician"};
  constexpr const char* kDid[] = {
      "repaired the door of",       "wrote a long letter about", "remembered",
      "painted a small picture of", "walked slowly towards",     "told the children stories about",
      "measured and described",     "lost the only key to"};
  constexpr const char* kWhat[] = {"the house on the hill",        "the bridge over the river",
                                   "the garden behind the church", "a boat with a blue sail",
                                   "the market in the old town",   "the clock above the station",
                                   "a library full of maps",       "the orchard near the sea"};
  constexpr const char* kWhen[] = {"in the spring of that year", "before the rain began",
                                   "while everybody slept",      "on the last day of the month",
                                   "as the lamps were lit",      "after the long winter",
                                   "when the train was late",    "shortly after midnight"};
  Random random(seed);
  std::string text;
  for (size_t i = 0; i < n_sentences; ++i) {
    text += fmt::format("{} {} {} {}. ", kWho[random.NextBelow(8)], kDid[random.NextBelow(8)],
                        kWhat[random.NextBelow(8)], kWhen[random.NextBelow(8)]);
  }
  return text;
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_PROSE_H_
