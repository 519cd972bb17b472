// The endpoints of rkv serve. RequestGuard checks every request, and the API key protects every
// endpoint that is not public.
#include "serve/http_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <regex>

#include "serve/digest.h"
#include "serve/metrics.h"
#include "serve/page.h"
#include "serve/poll_server.h"
#include "serve/thread_per_connection.h"

namespace rkv::app {

using httplib::Request;
using httplib::Response;
using nlohmann::json;

namespace {

constexpr size_t kMaxConnections = 4096;
constexpr auto kPoll = std::chrono::milliseconds(50);  // how soon a hang-up is noticed
constexpr auto kKeepAlive = std::chrono::seconds(10);  // a comment in an otherwise silent stream
constexpr size_t kMaxRemoteBytes = size_t{32} << 20;
// For a client that still reads; after a hang-up nothing is sent.
const ApiError kGivenUp{.status = 503, .type = "unavailable_error", .message = "shutting down"};

void SendJson(Response& response, const json& body, int status = 200) {
  response.status = status;
  response.set_content(Dump(body), "application/json; charset=utf-8");
}

void SendError(Response& response, const ApiError& error) {
  if (error.retry_after > 0) response.set_header("Retry-After", std::to_string(error.retry_after));
  SendJson(response, ErrorJson(error), error.status);
}

bool HasBody(const Request& request) {
  const std::string length = request.get_header_value("Content-Length");
  return (!length.empty() && length != "0") || request.has_header("Transfer-Encoding");
}

// Public endpoints: the page and its files, and the health check.
bool IsPublic(const Request& request) {
  return request.method == "GET" && !request.path.starts_with("/v1/") &&
         request.path != "/metrics" && request.path != "/slots" && request.path != "/props" &&
         !request.path.starts_with("/conversations");
}

RequestSource SourceOf(const Request& request) {
  RequestSource source{.method = request.method,
                       .hosts = {},
                       .origin = {},
                       .fetch_site = request.get_header_value("Sec-Fetch-Site"),
                       .has_fetch_metadata = request.has_header("Sec-Fetch-Site") ||
                                             request.has_header("Sec-Fetch-Mode") ||
                                             request.has_header("Sec-Fetch-Dest"),
                       .content_type = request.get_header_value("Content-Type"),
                       .has_body = HasBody(request),
                       .is_preflight = request.method == "OPTIONS" &&
                                       request.has_header("Access-Control-Request-Method"),
                       .is_public = IsPublic(request)};
  for (size_t i = 0; i < request.get_header_value_count("Host"); ++i) {
    source.hosts.push_back(request.get_header_value("Host", i));
  }
  if (request.has_header("Origin")) source.origin = request.get_header_value("Origin");
  return source;
}

// Lets a page of that origin read the answer.
void AllowOrigin(const std::string& origin, Response& response) {
  response.set_header("Access-Control-Allow-Origin", origin);
  response.set_header("Access-Control-Expose-Headers", "Retry-After");
  response.set_header("Vary", "Origin");
}

// Lists the methods and headers that a page of an allowed origin may send.
void AnswerPreflight(const Request& request, Response& response) {
  constexpr size_t kMax = 1024;
  std::string headers = request.get_header_value("Access-Control-Request-Headers");
  if (headers.empty() || headers.size() > kMax) headers = "authorization, content-type";
  response.status = 204;
  response.set_header("Access-Control-Allow-Methods", "GET, POST");
  response.set_header("Access-Control-Allow-Headers", headers);
  response.set_header("Access-Control-Max-Age", "600");
  // Chrome asks for this before it connects to the user's own network.
  if (request.has_header("Access-Control-Request-Private-Network")) {
    response.set_header("Access-Control-Allow-Private-Network", "true");
  }
}

// Reads a body of up to `max_bytes` bytes, of any content type. httplib's own reading accepts at
// most 8 KB of curl's default type, and does not limit chunked or compressed bodies. False: the
// response has an error.
bool ReadBody(const Request& request, Response& response, const httplib::ContentReader& reader,
              size_t max_bytes, std::string& body) {
  if (!HasBody(request)) return true;  // httplib would wait for the client to hang up.
  size_t n_read = 0;
  const auto take = [&](const char* data, size_t n) {
    n_read += n;
    if (n_read > max_bytes) return false;
    body.append(data, n);
    return true;
  };
  const bool is_form = request.is_multipart_form_data();
  const bool good =
      is_form ? reader([](const httplib::MultipartFormData&) { return true; }, take) : reader(take);
  if (n_read > max_bytes) response.status = 413;
  if (good) PollServer::SetUnread(false);
  if (good && is_form) {
    SendError(response, {.message = "the body must be JSON, and not multipart/form-data"});
  }
  return good && !is_form;
}

// A file of the page. Browsers ask for it each time, since it may change with the program.
void ServePageFile(httplib::Server& http, const std::string& name, std::string_view bytes) {
  static const std::map<std::string, const char*> types = {
      {".html", "text/html; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".png", "image/png"}};
  const auto type = types.find(std::filesystem::path(name).extension().string());
  const char* content_type = type == types.end() ? "text/plain; charset=utf-8" : type->second;
  const std::string etag = '"' + Sha256(bytes) + '"';
  const auto serve = [bytes, content_type, etag](const Request& request, Response& response) {
    response.set_header("ETag", etag);
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Content-Type-Options", "nosniff");
    // The page shows a model's text as Markdown; this text must not load or run anything.
    response.set_header("Content-Security-Policy",
                        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src "
                        "'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
                        "frame-ancestors 'none'");
    if (request.get_header_value("If-None-Match") == etag) {
      response.status = 304;
    } else {
      response.set_content(bytes.data(), bytes.size(), content_type);
    }
  };
  http.Get(name == "index.html" ? "/" : "/" + name, serve);
}

Result<std::string> FetchRemote(const std::string& url) {
  constexpr size_t kMaxUrlBytes = 4096;  // httplib matches URLs by recursion.
  if (url.size() > kMaxUrlBytes) {
    return InvalidArgument(
        fmt::format("the URL of a remote picture is longer than {} bytes", kMaxUrlBytes));
  }
  static const std::regex pattern("(https?://[^/?#]+)([^#]*)(#.*)?");
  std::smatch match;
  if (!std::regex_match(url, match, pattern)) {
    return InvalidArgument("a remote picture has no valid URL");
  }
  httplib::Client client(match[1].str());
  client.set_connection_timeout(5);
  client.set_read_timeout(10);
  std::string path = match[2];
  if (path.empty() || path.front() != '/') path = "/" + path;
  std::string bytes;
  const auto result = client.Get(path, [&](const char* data, size_t n) {
    bytes.append(data, n);
    return bytes.size() <= kMaxRemoteBytes;
  });
  if (!result || result->status != 200) {
    return BadFile(fmt::format(
        "the picture '{}' cannot be fetched ({})", url,
        result ? fmt::format("status {}", result->status) : httplib::to_string(result.error())));
  }
  return bytes;
}

}  // namespace

// The handlers of the endpoints; they run once a scheduler exists.
class HttpServer::Handlers {
 public:
  // `may_probe`: the client understands "100 Continue".
  Handlers(const HttpServer& server, Scheduler& scheduler, bool may_probe)
      : server_(server), scheduler_(scheduler), may_probe_(may_probe) {}

  void Models(Response& response) const {
    const json model = {{"id", server_.options_.model_name},
                        {"object", "model"},
                        {"created", 0},
                        {"owned_by", "rkv"},
                        {"meta",
                         {{"description", scheduler_.model_description()},
                          {"n_ctx", scheduler_.n_ctx()},
                          {"pictures", scheduler_.takes_pictures()},
                          {"audio", scheduler_.takes_audio()}}}};
    SendJson(response, {{"object", "list"}, {"data", json::array({model})}});
  }

  void Props(Response& response) const {
    const GenerationRequest& defaults = server_.options_.defaults;
    const Budget& budget = defaults.cache.budget;
    json policies = json::array();
    for (const PolicyDescription& policy : DescribePolicies()) {
      policies.push_back(
          {{"name", policy.name}, {"summary", policy.summary}, {"evicts", policy.evicts}});
    }
    SendJson(response,
             {{"model_alias", server_.options_.model_name},
              {"bundled_model", server_.options_.bundled_model},
              {"model_description", scheduler_.model_description()},
              {"total_slots", scheduler_.n_slots()},
              {"n_ctx", scheduler_.n_ctx()},
              {"modalities",
               {{"vision", scheduler_.takes_pictures()}, {"audio", scheduler_.takes_audio()}}},
              {"kv",
               {{"policy", ToString(defaults.cache.policy)},
                {"budget", budget.unlimited() ? "none" : ToString(budget)},
                {"policies", std::move(policies)}}}});
  }

  void Tokenize(const std::string& bytes, Response& response) const {
    const auto body = ParseJson(bytes);
    if (!body.ok()) return SendError(response, ToApiError(body.status()));
    const auto text = StringField(*body, "content");
    if (!text.ok()) return SendError(response, ToApiError(text.status()));
    const auto tokens = scheduler_.Tokenize(*text, Gone());
    if (tokens.status().code() == StatusCode::kCancelled) return SendError(response, kGivenUp);
    if (!tokens.ok()) return SendError(response, ToApiError(tokens.status()));
    SendJson(response, {{"tokens", *tokens}});
  }

  void Detokenize(const std::string& bytes, Response& response) const {
    const auto body = ParseJson(bytes);
    if (!body.ok()) return SendError(response, ToApiError(body.status()));
    std::vector<int32_t> tokens;
    const json list = body->value("tokens", json());
    for (const json& token : list) {
      const bool fits = token.is_number_integer() && token >= 0 && token <= INT32_MAX;
      if (fits) tokens.push_back(token);
    }
    if (!list.is_array() || tokens.size() != list.size()) {
      return SendError(response, {.message = "'tokens' must be a list of whole numbers"});
    }
    const auto content = scheduler_.Detokenize(tokens);
    if (!content.ok()) return SendError(response, ToApiError(content.status()));
    SendJson(response, {{"content", *content}});
  }

  void KvCache(const Request& request, Response& response) const {
    const std::string id = request.matches[1];
    const auto inspection = scheduler_.Inspect(id);
    if (!inspection.has_value()) {
      return SendError(response, NotFound("a conversation '" + id + "' in memory"));
    }
    SendJson(response, *inspection);
  }

  void Generate(const std::string& bytes, Response& response, bool chat) const {
    const auto body = ParseJson(bytes);
    if (!body.ok()) return SendError(response, ToApiError(body.status()));
    const ParseContext context{
        .defaults = server_.options_.defaults,
        .fetch = server_.options_.allow_remote_images ? FetchRemote : FetchFunction()};
    auto parsed = chat ? ParseChatRequest(*body, context) : ParseCompletionRequest(*body, context);
    if (!parsed.ok()) return SendError(response, ToApiError(parsed.status()));
    const bool stream = parsed->stream;
    const ResponseWriter writer(*parsed, server_.options_.model_name);
    const std::shared_ptr<Ticket> ticket = scheduler_.Submit(*std::move(parsed), Gone());
    stream ? Stream(ticket, writer, response) : Whole(ticket, writer, response);
  }

 private:
  // Whether the client has hung up, while the answer has not begun.
  GoneFunction Gone() const {
    return [this, watch = std::make_shared<ClientWatch>()] {
      const int socket = PollServer::current_socket();
      return server_.stopping_ ||
             watch->HungUp(socket, [&] { return may_probe_ && SendContinue(socket); });
    };
  }

  // The next event; an error after a hang-up or when the server stops.
  Ticket::Event Next(Ticket& ticket, const GoneFunction& gone) const {
    while (!gone()) {
      if (auto event = ticket.Next(kPoll); event.has_value()) return *std::move(event);
    }
    ticket.Cancel();
    return kGivenUp;
  }

  void Whole(const std::shared_ptr<Ticket>& ticket, const ResponseWriter& writer,
             Response& response) const {
    const GoneFunction gone = Gone();
    AnswerPiece answer;
    while (true) {
      Ticket::Event event = Next(*ticket, gone);
      if (const auto* error = std::get_if<ApiError>(&event)) return SendError(response, *error);
      if (auto* piece = std::get_if<AnswerPiece>(&event)) {
        answer.text += piece->text;
        answer.reasoning += piece->reasoning;
        std::move(piece->logprobs.begin(), piece->logprobs.end(),
                  std::back_inserter(answer.logprobs));
      }
      if (const auto* summary = std::get_if<AnswerSummary>(&event)) {
        return SendJson(response, writer.Whole(answer, *summary));
      }
    }
  }

  void Stream(const std::shared_ptr<Ticket>& ticket, const ResponseWriter& writer,
              Response& response) const {
    // An error before the answer begins has an HTTP status.
    const Ticket::Event first = Next(*ticket, Gone());
    if (const auto* error = std::get_if<ApiError>(&first)) return SendError(response, *error);
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Accel-Buffering", "no");
    response.set_chunked_content_provider(
        "text/event-stream",
        [ticket, writer, &stopping = server_.stopping_, watch = std::make_shared<ClientWatch>()](
            size_t offset, httplib::DataSink& sink) {
          return WriteNext(*ticket, writer, stopping, *watch, offset == 0, sink);
        },
        // httplib also calls this after a hang-up.
        [ticket](bool) { ticket->Cancel(); });
  }

  static bool WriteEvent(httplib::DataSink& sink, const std::string& data) {
    const std::string line = "data: " + data + "\n\n";
    return sink.write(line.data(), line.size());
  }

  // Waits for the next event and writes it; false ends the connection.
  static bool WriteNext(Ticket& ticket, const ResponseWriter& writer,
                        const std::atomic<bool>& stopping, ClientWatch& watch, bool at_start,
                        httplib::DataSink& sink) {
    const auto write = [&sink](const std::vector<json>& events) {
      return std::ranges::all_of(events,
                                 [&](const json& event) { return WriteEvent(sink, Dump(event)); });
    };
    if (at_start && !write(writer.Start())) return false;
    const auto comment = [&sink] {
      constexpr std::string_view kComment = ": still here\n\n";
      return sink.write(kComment.data(), kComment.size());
    };
    const auto begin = std::chrono::steady_clock::now();
    std::optional<Ticket::Event> event;
    while (!event.has_value()) {
      event = ticket.Next(kPoll);
      if (event.has_value()) break;
      if (stopping || watch.HungUp(PollServer::current_socket(), comment)) return false;
      if (std::chrono::steady_clock::now() - begin > kKeepAlive) return comment();
    }
    if (const auto* piece = std::get_if<AnswerPiece>(&*event)) return write({writer.Piece(*piece)});
    if (const auto* error = std::get_if<ApiError>(&*event)) {
      (void)write({ErrorJson(*error)});
    } else if (const auto* summary = std::get_if<AnswerSummary>(&*event)) {
      if (!write(writer.End(*summary)) || !WriteEvent(sink, "[DONE]")) return false;
    }
    sink.done();
    return true;
  }

  const HttpServer& server_;
  Scheduler& scheduler_;
  const bool may_probe_;
};

HttpServer::HttpServer(const HttpOptions& options, RequestGuard guard)
    : options_(options), guard_(std::move(guard)), server_(std::make_unique<PollServer>()) {
  httplib::Server& http = *server_;
  http.new_task_queue = [] { return new ThreadPerConnection(kMaxConnections); };
  http.set_payload_max_length(options_.max_body_bytes);
  http.set_read_timeout(options_.timeout_seconds);
  http.set_write_timeout(options_.timeout_seconds);
  http.set_keep_alive_timeout(options_.timeout_seconds);
  http.set_keep_alive_max_count(1000);
  http.set_tcp_nodelay(true);
  http.set_default_headers({{"Server", "rkv"}});

  http.set_pre_routing_handler([this](const Request& request, Response& response) {
    using enum httplib::Server::HandlerResponse;
    PollServer::SetUnread(HasBody(request));
    const Verdict verdict = guard_.Check(SourceOf(request));
    if (!verdict.allow_origin.empty()) AllowOrigin(verdict.allow_origin, response);
    if (verdict.status == 204) {
      AnswerPreflight(request, response);
      return Handled;
    }
    if (verdict.status != 0) {
      SendError(response,
                {.status = verdict.status,
                 .type = verdict.status == 403 ? "permission_error" : "invalid_request_error",
                 .message = verdict.message});
      return Handled;
    }
    if (options_.api_key.empty() || IsPublic(request)) return Unhandled;
    if (EqualSecrets(PollServer::authorization(), "Bearer " + options_.api_key)) return Unhandled;
    SendError(response, {.status = 401,
                         .type = "authentication_error",
                         .message = "this server needs an API key: Authorization: Bearer KEY"});
    return Handled;
  });
  http.set_error_handler([this](const Request& request, Response& response) {
    if (!response.body.empty()) return;
    switch (response.status) {
      case 404:
        return SendError(response, NotFound(request.method + " " + request.path));
      case 413:
        return SendError(response,
                         {.status = 413,
                          .message = fmt::format("the body is larger than {} MiB (--max-body)",
                                                 options_.max_body_bytes >> 20)});
      default:
        return SendError(response,
                         {.status = response.status, .message = "the request is not valid HTTP"});
    }
  });
  http.set_exception_handler([](const Request&, Response& response, std::exception_ptr thrown) {
    std::string what = "unknown";
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
      what = error.what();
    } catch (...) {
    }
    spdlog::error("a request failed: {}", what);
    SendError(response, {.status = 500, .type = "server_error", .message = "internal error"});
  });

  // Runs a handler if the model has been loaded.
  const auto if_loaded = [this](const Request& request, Response& response, const auto& handle) {
    Scheduler* scheduler = scheduler_;
    if (scheduler == nullptr || stopping_) {
      return SendError(response, {.status = 503,
                                  .type = "unavailable_error",
                                  .message = stopping_ ? "shutting down" : "loading the model",
                                  .retry_after = 1});
    }
    handle(Handlers(*this, *scheduler, request.version != "HTTP/1.0"), *scheduler);
  };
  const auto when_loaded = [if_loaded](auto handle) {
    return [if_loaded, handle](const Request& request, Response& response) {
      if_loaded(request, response, [&](const Handlers& handlers, Scheduler& scheduler) {
        handle(handlers, scheduler, request, response);
      });
    };
  };
  // Registers a handler that takes a body. The body is always read, since the next request may
  // follow it.
  const auto post = [this, &http, if_loaded](const char* path, auto handle) {
    http.Post(path, [this, if_loaded, handle](const Request& request, Response& response,
                                              const httplib::ContentReader& reader) {
      std::string body;
      if (!ReadBody(request, response, reader, options_.max_body_bytes, body)) return;
      if_loaded(request, response,
                [&](const Handlers& handlers, Scheduler&) { handle(handlers, body, response); });
    });
  };
  using H = const Handlers&;
  using S = Scheduler&;
  using In = const Request&;
  using Out = Response&;
  http.Get("/health", when_loaded([](H, S, In, Out out) { SendJson(out, {{"status", "ok"}}); }));
  http.Get("/v1/models", when_loaded([](H h, S, In, Out out) { h.Models(out); }));
  http.Get("/props", when_loaded([](H h, S, In, Out out) { h.Props(out); }));
  http.Get("/slots", when_loaded([](H, S s, In, Out out) { SendJson(out, s.Slots()); }));
  http.Get("/conversations",
           when_loaded([](H, S s, In, Out out) { SendJson(out, s.Conversations()); }));
  http.Get("/conversations/([^/]+)/memory",
           when_loaded([](H h, S, In in, Out out) { h.KvCache(in, out); }));
  http.Get("/metrics", when_loaded([](H, S s, In, Out out) {
             out.set_content(MetricsText(s.stats()), "text/plain; version=0.0.4");
           }));
  using Body = const std::string&;
  post("/tokenize", [](H h, Body body, Out out) { h.Tokenize(body, out); });
  post("/detokenize", [](H h, Body body, Out out) { h.Detokenize(body, out); });
  post("/v1/chat/completions", [](H h, Body body, Out out) { h.Generate(body, out, true); });
  post("/v1/completions", [](H h, Body body, Out out) { h.Generate(body, out, false); });
  if (options_.static_files.empty()) {
    for (const auto& [name, bytes] : PageFiles()) ServePageFile(http, std::string(name), bytes);
  } else {
    http.set_mount_point("/", options_.static_files);
  }
}

HttpServer::~HttpServer() = default;

Result<int> HttpServer::Bind() {
  // httplib sets SO_REUSEPORT, which would let a second server take half of the requests.
  server_->set_socket_options([](int fd) {
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  const int port = options_.port == 0
                       ? server_->bind_to_any_port(options_.host)
                       : (server_->bind_to_port(options_.host, options_.port) ? options_.port : -1);
  if (port < 0) {
    return Internal(
        fmt::format("cannot listen on {}:{}: the port is taken, or the address is "
                    "not this machine's; choose others with --host and --port",
                    options_.host, options_.port));
  }
  server_->SetBacklog(SOMAXCONN);
  return port;
}

void HttpServer::Listen() {
  server_->listen_after_bind();
  listened_ = true;
}

void HttpServer::Stop() {
  stopping_ = true;
  // httplib ignores a stop before it listens.
  while (!server_->is_running() && !listened_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  server_->stop();
}

}  // namespace rkv::app
