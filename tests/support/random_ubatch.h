// Ubatches of random tensors, run through a KvCache as the bridge to llama.cpp would.
#ifndef RETENTIVEKV_TESTS_SUPPORT_RANDOM_UBATCH_H_
#define RETENTIVEKV_TESTS_SUPPORT_RANDOM_UBATCH_H_

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "cache/ubatch_attention.h"

namespace rkv {

class RandomUbatch {
 public:
  RandomUbatch(const CacheShape& shape, size_t n, Random& random) : n_(n) {
    for (const LayerShape& layer : shape.layers) {
      Layer& data = layers_.emplace_back();
      data.shape = layer;
      for (size_t i = 0; i < n * layer.n_head * layer.d_k; ++i) {
        data.q.push_back(static_cast<float>(random.NextGaussian()));
      }
      for (size_t i = 0; i < n * layer.n_kv_head * layer.d_k; ++i) {
        data.k.push_back(F16FromF32(static_cast<float>(random.NextGaussian())));
      }
      for (size_t i = 0; i < n * layer.n_kv_head * layer.d_v; ++i) {
        data.v.push_back(F16FromF32(static_cast<float>(random.NextGaussian())));
      }
      data.out.assign(n * layer.n_head * layer.d_v, std::nanf(""));
    }
    for (uint32_t i = 0; i < n; ++i) segment_.AddRow(i);
  }

  // Attends with everything and appends it.
  void Run(KvCache& cache, UbatchBuffers* buffers, AppendInfo info = {}) {
    AttentionScratch scratch;
    scratch.Resize(cache.shape());
    Run(cache, buffers, scratch, false, info);
  }
  // Allocates nothing itself. `in_parts`: a single token's heads are attended in parts, as far as
  // they have several.
  void Run(KvCache& cache, UbatchBuffers* buffers, AttentionScratch& scratch, bool in_parts = false,
           AppendInfo info = {}) {
    KvCache::Impl& impl = cache.impl();
    info.n = n_;
    KvCache::Append append = impl.BeginAppend(info, buffers);
    segment_.cache = &impl;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const UbatchTensors views = tensors(l);
      const size_t step = TokensPerWorkItem(layers_[l].shape);
      for (size_t h = 0; h < layers_[l].shape.n_kv_head; ++h) {
        const size_t n_parts = in_parts ? NumParts(segment_, l, h) : 1;
        for (size_t part = n_parts; part-- > 0 && n_parts > 1;) {
          AttendSegmentPart(segment_, l, h, part, n_parts, views, scratch);
        }
        for (size_t first = 0; first < n_ && n_parts == 1; first += step) {
          AttendSegment(segment_, l, h, first, std::min(step, n_ - first), views, scratch);
        }
      }
    }
    append.Commit();
  }

  // A single token's parts, taken by threads as they come.
  void RunOnThreads(KvCache& cache, UbatchBuffers* buffers, size_t n_threads) {
    KvCache::Impl& impl = cache.impl();
    KvCache::Append append = impl.BeginAppend({.n = n_}, buffers);
    segment_.cache = &impl;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const UbatchTensors views = tensors(l);
      for (size_t h = 0; h < layers_[l].shape.n_kv_head; ++h) {
        const size_t n_parts = NumParts(segment_, l, h);
        std::atomic<size_t> next = 0;
        std::vector<std::thread> threads;
        for (size_t i = 0; i < n_threads; ++i) {
          threads.emplace_back([&] {
            AttentionScratch scratch;
            scratch.Resize(impl.shape());
            for (size_t part = next++; part < n_parts; part = next++) {
              AttendSegmentPart(segment_, l, h, part, n_parts, views, scratch);
            }
          });
        }
        for (std::thread& thread : threads) thread.join();
      }
    }
    append.Commit();
  }

  size_t n() const { return n_; }
  const std::vector<float>& out(size_t layer) const { return layers_[layer].out; }
  const float* q(size_t layer, size_t token, size_t head) const {
    const Layer& data = layers_[layer];
    return data.q.data() + (token * data.shape.n_head + head) * data.shape.d_k;
  }
  const uint16_t* k(size_t layer, size_t token, size_t kv_head) const {
    const Layer& data = layers_[layer];
    return data.k.data() + (token * data.shape.n_kv_head + kv_head) * data.shape.d_k;
  }
  // Makes every head's K and V of a token these, as much of it as they are long.
  void SetToken(size_t token, const std::vector<float>& k_and_v) {
    for (Layer& data : layers_) {
      const auto set = [&](std::vector<uint16_t>& rows, size_t n) {
        for (size_t e = 0; e < n; ++e) {
          rows[token * n + e] = F16FromF32(k_and_v[e % k_and_v.size()]);
        }
      };
      set(data.k, data.shape.n_kv_head * data.shape.d_k);
      set(data.v, data.shape.n_kv_head * data.shape.d_v);
    }
  }
  static constexpr float kScale = 0.25f;

 private:
  struct Layer {
    LayerShape shape;
    std::vector<float> q, out;
    std::vector<uint16_t> k, v;
  };

  UbatchTensors tensors(size_t l) {
    Layer& data = layers_[l];
    const LayerShape& shape = data.shape;
    const auto rows = []<typename T>(T* at, size_t heads, size_t d) {
      return HeadRows<T>{.data = at, .token_stride = heads * d, .head_stride = d};
    };
    return {.q = rows(static_cast<const float*>(data.q.data()), shape.n_head, shape.d_k),
            .k = rows(static_cast<const uint16_t*>(data.k.data()), shape.n_kv_head, shape.d_k),
            .v = rows(static_cast<const uint16_t*>(data.v.data()), shape.n_kv_head, shape.d_v),
            .out = rows(data.out.data(), shape.n_head, shape.d_v),
            .scale = kScale};
  }

  size_t n_;
  std::vector<Layer> layers_;
  Segment segment_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_RANDOM_UBATCH_H_
