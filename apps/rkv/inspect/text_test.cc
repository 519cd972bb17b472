// Cell maps, layers and stats as text and JSON, from a small made-up inspection.
#include "inspect/text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace rkv::app {
namespace {

constexpr uint8_t kGone = HeadInspection::kForgotten;

// A picture of 2 x 3 cells between two tokens of text, in two layers of one KV head.
Inspection SmallInspection() {
  Inspection inspection;
  inspection.shape.layers.resize(2, {.n_head = 2, .n_kv_head = 1, .d_k = 64, .d_v = 64});
  inspection.rungs = ParseLadder("f16,q8_0,q2")->rungs;
  inspection.media = {{.first_token = 1, .modality = Modality::kImage, .rows = 2, .columns = 3}};
  inspection.stats.tokens_seen = 8;
  inspection.answer_tokens = 1;
  HeadInspection head;
  head.rung = {0, 0, 1, 2, kGone, kGone, 1, 0};
  head.root = {-1, -1, -1, -1, 3, -1, -1, -1};
  head.share = {0.25f, 0.25f, 0, 0.125f, 0, 0, 0, 0.125f};
  head.states = {{.root = 3, .mass = 1, .share = 0.25f}};
  inspection.heads.push_back(head);
  head.layer = 1;
  head.rung = {0, 2, 1, kGone, kGone, kGone, kGone, 0};
  head.root = {-1, -1, -1, 3, 3, -1, -1, -1};
  head.share = {1, 0, 0, 0, 0, 0, 0, 0};
  head.states.clear();
  inspection.heads.push_back(head);
  return inspection;
}

TEST(CellMapTest, SharesOfHeads) {
  const Inspection inspection = SmallInspection();
  const CellMap map = MakeCellMap(inspection, inspection.media[0], {});
  EXPECT_EQ(map.n_heads, 2u);
  ASSERT_EQ(map.cells.size(), 6u);
  EXPECT_EQ(map.cells[0].rungs, (std::vector<double>{0.5, 0, 0.5}));
  EXPECT_EQ(map.cells[0].usual(), 0u);  // Of equals, the most precise.
  EXPECT_NEAR(map.cells[0].precision(), (1 + 1.0 / 3) / 2, 1e-12);
  EXPECT_EQ(map.cells[0].softmax, 0.125);
  EXPECT_EQ(map.cells[2].held(), 0.5);
  EXPECT_EQ(map.cells[3].absorbed, 1);
  EXPECT_EQ(map.cells[3].root, 3);
  EXPECT_EQ(map.cells[4].forgotten, 1);
  EXPECT_EQ(map.cells[4].usual(), 4u);
  EXPECT_EQ(map.max_softmax, 0.125);
  // A tiny share does not stand out.
  const CellMap quiet = MakeCellMap(inspection, inspection.media[0], {.layer = 1, .kv_head = {}});
  EXPECT_NEAR(quiet.read_scale(), 0.1 / 6, 1e-12);
}

TEST(CellMapTest, FiltersNameWhatIsPossible) {
  const CacheShape shape = SmallInspection().shape;
  EXPECT_TRUE(CheckFilter(shape, {}).ok());
  EXPECT_TRUE(CheckFilter(shape, {.layer = 1, .kv_head = 0}).ok());
  EXPECT_NE(CheckFilter(shape, {.layer = 2, .kv_head = {}}).message().find("layers 0 to 1"),
            std::string::npos);
  EXPECT_NE(CheckFilter(shape, {.layer = {}, .kv_head = 1}).message().find("heads 0 to 0"),
            std::string::npos);
  EXPECT_EQ(Describe({}, 8), "mean over 8 heads");
  EXPECT_EQ(Describe({.layer = 1, .kv_head = {}}, 2), "layer 1, mean over 2 heads");
  EXPECT_EQ(Describe({.layer = 1, .kv_head = 0}, 1), "layer 1, KV head 0");
}

TEST(InspectTextTest, MapsOfOneHead) {
  const Inspection inspection = SmallInspection();
  const CellMap map = MakeCellMap(inspection, inspection.media[0], {.layer = 0, .kv_head = 0});
  const std::string text = MapText(map, true);
  EXPECT_EQ(text.substr(0, text.find("  legend")),
            "  held as    read in the answer\n"
            "  F82        9.5\n"
            "  ~.8        ...\n");
  EXPECT_NE(text.find("F f16, 8 q8_0, 2 q2, ~ absorbed"), std::string::npos);
  EXPECT_EQ(MapText(map, false).find("read in"), std::string::npos);
}

TEST(InspectTextTest, PicturesWithoutAGridAreWrapped) {
  Inspection inspection = SmallInspection();
  inspection.media[0] = {.first_token = 1, .modality = Modality::kImage, .rows = 1, .columns = 100};
  const std::string text =
      MapText(MakeCellMap(inspection, inspection.media[0], {.layer = 0, .kv_head = 0}), false);
  EXPECT_NE(text.find("\n  F82~.8F"), std::string::npos) << text;
  EXPECT_EQ(text.find("  legend"), std::string("  held as\n").size() + 67 + 39) << text;
}

TEST(InspectTextTest, LayersAndAll) {
  Inspection inspection = SmallInspection();
  const std::string table = LayerTable(inspection, {});
  for (
      const char* row :
      {"  layer     f16    q8_0      q2  absorbed  forgotten  states |  pictures    text  states\n",
       "      0     3.0     2.0     1.0       1.0        1.0     1.0 |    37.5 %  37.5 %  25.0 %\n",
       "      1     2.0     1.0     1.0       2.0        2.0     0.0 |     0.0 % 100.0 %   0.0 %\n",
       "    all     2.5     1.5     1.0       1.5        1.5     0.5 |    18.8 %  68.8 %  12.5 "
       "%\n"}) {
    EXPECT_NE(table.find(row), std::string::npos) << row << "in\n" << table;
  }
  inspection.answer_tokens = 0;
  EXPECT_EQ(LayerTable(inspection, {.layer = 1, .kv_head = {}}).find('%'), std::string::npos);
}

TEST(InspectTextTest, JsonHasEveryHeadAndToken) {
  const nlohmann::json json = InspectionJson(SmallInspection());
  EXPECT_EQ(json["rungs"], (nlohmann::json{"f16", "q8_0", "q2"}));
  EXPECT_EQ(json["media"][0]["modality"], "image");
  ASSERT_EQ(json["heads"].size(), 2u);
  EXPECT_EQ(json["heads"][0]["rung"].dump(), "[0,0,1,2,null,null,1,0]");
  EXPECT_EQ(json["heads"][1]["root"].dump(), "[null,null,null,3,3,null,null,null]");
  EXPECT_EQ(json["heads"][0]["share"][3], 0.125);
  EXPECT_EQ(json["heads"][0]["states"][0]["root"], 3);
}

TEST(InspectTextTest, JsonHasWhatTheAnswerTokensRead) {
  Inspection inspection = SmallInspection();
  inspection.media.push_back({.first_token = 7, .rows = 1, .columns = 1});
  AnswerTokenInspection chosen;
  chosen.token = 8;
  chosen.text = "a";
  chosen.read = {0, 0.5f, 0.123456f, 0, 0, 0, 0.25f};
  chosen.reactivated = {3};
  inspection.answer = {chosen};
  EXPECT_EQ(InspectionJson(SmallInspection())["answer"].dump(), "[]");
  EXPECT_EQ(InspectionJson(inspection)["answer"].dump(),
            R"([{"reactivated":[3],"read":[[0.0,0.5,0.12346,0.0,0.0,0.0],[0.25]],)"
            R"("text":"a","token":8}])");
}

TEST(InspectTextTest, StatsNameEverything) {
  CacheStats stats;
  stats.tokens_seen = 100;
  stats.tokens_exact = 40;
  stats.tokens_evicted = 60;
  stats.tokens_absorbed = 50;
  stats.states = 1;
  stats.held_bytes = 20 << 10;
  stats.full_bytes = 11 << 20;
  stats.bytes_by_type[static_cast<size_t>(ElementType::kQ4_0)] = 12 << 10;
  stats.state_bytes = 5 << 10;
  stats.metadata_bytes = 3 << 10;
  stats.state_share = 0.125;
  stats.reactivations = 1;
  stats.compressions = 2;
  stats.compress_seconds = 0.0125;
  EXPECT_EQ(StatsText(stats),
            "  bytes      20.0 KiB held, no budget; a full cache: 11.0 MiB\n"
            "  of these   q4_0 12.0 KiB, states 5.0 KiB, metadata 3.0 KiB\n"
            "  tokens     100 seen: 40 exact, 50 absorbed (maximum over KV heads), 10 forgotten\n"
            "  states     1, which took 12.5 % of attention; 1 reactivation\n"
            "  time       2 compressions in 12.5 ms, 0.0 ms of observing attention\n");
  stats.budget_bytes = 24 << 10;
  EXPECT_EQ(StatsText(stats).find("  bytes      20.0 KiB held of a budget of 24.0 KiB;"), 0u);
}

}  // namespace
}  // namespace rkv::app
