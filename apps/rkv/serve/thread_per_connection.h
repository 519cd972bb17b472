// A thread for each connection, without a fixed limit.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_THREAD_PER_CONNECTION_H_
#define RETENTIVEKV_APPS_RKV_SERVE_THREAD_PER_CONNECTION_H_

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace rkv::app {

// httplib keeps a thread on each connection, including idle ones. A few idle clients would block a
// pool of the machine's size. These threads mostly sleep.
class ThreadPerConnection : public httplib::TaskQueue {
 public:
  explicit ThreadPerConnection(size_t max_threads) : max_threads_(max_threads) {}

  void enqueue(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (n_idle_ < tasks_.size() && threads_.size() < max_threads_) {
      try {
        threads_.emplace_back([this] { Work(); });
      } catch (const std::system_error&) {
        // The system has no more threads: the connection waits for an existing one.
      }
    }
    changed_.notify_one();
  }

  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      ++n_idle_;
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      --n_idle_;
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  const size_t max_threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  size_t n_idle_ = 0;
  bool stopping_ = false;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_THREAD_PER_CONNECTION_H_
