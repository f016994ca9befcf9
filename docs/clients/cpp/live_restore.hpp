// A client of a live_restore daemon, to copy into your program: both ports, gaps repaired.
// It needs cppzmq and nlohmann-json, and C++17; viewer.cpp shows its use.
//
// Voxels are little-endian on the wire, and so, here, on the PC.

#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#include <zmq.hpp>
#include <zmq_addon.hpp>

namespace live_restore {

using json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using Stream = std::pair<std::string, std::string>;  // position and channel

constexpr auto ANSWER = std::chrono::milliseconds(2000);  // how long to wait for the control port
constexpr auto SILENCE = std::chrono::seconds(3);         // the daemon's heart beats once a second
constexpr std::uint64_t LARGEST_AXIS = 1 << 20;

// Something that is said and then passed over: malformed, refused or unanswered.
struct Problem : std::runtime_error {
    std::string kind;
    Problem(std::string kind, const std::string& reason)
        : std::runtime_error(reason), kind(std::move(kind)) {}
    json event() const { return {{"event", kind}, {"reason", what()}}; }
};

struct Message {
    std::string topic;
    json header;
    std::vector<zmq::message_t> frames;  // planes from the third on
};

struct Volume {
    Stream stream;
    std::uint64_t sequence;
    std::string type;
    std::array<std::uint64_t, 3> shape;  // z, y, x
    std::vector<char> voxels;            // C order
    json line;                           // what is said about it
};

struct Progress {
    std::uint64_t last;
    std::set<std::uint64_t> held;
};

inline std::string text(const json& header, const char* name) {
    return header.at(name).get<std::string>();
}

inline std::uint64_t number(const json& value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= 1ull << 53)
        throw Problem("malformed", "a count expected, another " + std::string(value.type_name()) + " came");
    return value.get<std::uint64_t>();
}

inline std::array<std::uint64_t, 3> shape_of(const json& header) {
    const json& shape = header.at("shape");
    if (!shape.is_array() || shape.size() != 3)
        throw Problem("malformed", "shape: [z, y, x] expected");
    std::array<std::uint64_t, 3> result;
    for (int axis = 0; axis < 3; ++axis)
        if ((result[axis] = number(shape[axis])) < 1 || result[axis] >= LARGEST_AXIS)
            throw Problem("malformed", "shape: each axis has at least one voxel and less than 2^20");
    return result;
}

inline std::string session_of(const Message& message) { return text(message.header, "session"); }

// Topic and header of a message.
inline Message parse(std::vector<zmq::message_t> frames) {
    if (frames.size() < 2) throw Problem("malformed", "topic and header expected, one frame came");
    const char* begin = frames[1].data<char>();
    json header = json::parse(begin, begin + frames[1].size());
    if (!header.is_object() || header.value("v", json(1)) != 1)
        throw Problem("malformed", "a header of protocol 1 expected");
    return {frames[0].to_string(), std::move(header), std::move(frames)};
}

inline Volume volume_of(const Message& message) {
    static const std::map<std::string, std::uint64_t> sizes{{"uint8", 1}, {"uint16", 2}, {"float32", 4}};
    const json& header = message.header;
    const Stream stream{text(header, "position"), text(header, "channel")};
    Volume volume{stream, number(header.at("sequence")), text(header, "type"), shape_of(header), {}, {}};
    const auto size = sizes.find(volume.type);
    if (size == sizes.end() || header.value("encoding", json("raw")) != "raw")
        throw Problem("malformed", "this client doesn't know voxels of type " + volume.type);
    const auto [nz, ny, nx] = volume.shape;
    const std::uint64_t plane_bytes = ny * nx * size->second;
    if (message.frames.size() != nz + 2)
        throw Problem("malformed", std::to_string(nz) + " planes expected, others came");
    for (std::size_t z = 0; z < nz; ++z)  // before any memory is taken
        if (message.frames[z + 2].size() != plane_bytes)
            throw Problem("malformed", "planes of " + std::to_string(plane_bytes) + " bytes expected");
    volume.voxels.resize(nz * plane_bytes);
    for (std::size_t z = 0; z < nz; ++z)
        std::memcpy(&volume.voxels[z * plane_bytes], message.frames[z + 2].data(), plane_bytes);
    volume.line = {{"event", "volume"}, {"shape", volume.shape}, {"sequence", volume.sequence}};
    volume.line["time"] = number(header.at("time"));
    for (const char* name : {"session", "kind", "acquisition", "position", "channel", "type"})
        volume.line[name] = text(header, name);
    return volume;
}

struct Options {
    std::string data = "tcp://127.0.0.1:5556", control = "tcp://127.0.0.1:5557", kind = "restored";
    bool latest_only = false;  // be told what is new and ask for the latest: for slow drawing
    std::map<std::string, std::string> keys;  // server, public and secret, for a daemon with keys
};

// A client of both ports. Tells `listen` of each event, with the volume if it is one.
class LiveRestore {
  public:
    using Listener = std::function<void(const json& event, const Volume* volume)>;

    LiveRestore(const Options& options, Listener listen)
        : options(options), listen(std::move(listen)), socket(context, zmq::socket_type::sub) {
        topic = (options.latest_only ? "announce/" : "volume/") + options.kind + "/";
        socket.set(zmq::sockopt::rcvhwm, 2);
        socket.set(zmq::sockopt::rcvtimeo, 200);
        for (const std::string& wanted : {topic, std::string("skipped/"), std::string("system/")})
            socket.set(zmq::sockopt::subscribe, wanted);
        connect(socket, options.data);
    }

    // Take one message; waits for a daemon that isn't there, or comes back.
    void step() {
        std::vector<zmq::message_t> frames;
        if (zmq::recv_multipart(socket, std::back_inserter(frames))) {
            attempt([&] {
                const Message message = parse(std::move(frames));
                if (message.topic == "system/heartbeat/") last_beat = Clock::now(), is_silent = false;
                take(message);
            });
        } else if (!is_silent && Clock::now() - last_beat > SILENCE) {
            is_silent = true;
            listen({{"event", "silent"}, {"reason", "no heartbeat for 3 s"}}, nullptr);
        }
    }

  private:
    const Options options;
    const Listener listen;
    zmq::context_t context;
    zmq::socket_t socket;
    std::string topic, session;
    std::map<Stream, std::uint64_t> awaited;     // the next number of each stream
    std::map<std::string, std::uint64_t> told;  // likewise of each topic, as the data port told
    Clock::time_point last_beat = Clock::now();
    bool is_silent = false;

    static bool starts(const std::string& text, const std::string& beginning) {
        return text.compare(0, beginning.size(), beginning) == 0;
    }

    void attempt(const std::function<void()>& action) {
        try {
            action();
        } catch (const Problem& problem) {
            listen(problem.event(), nullptr);
        } catch (const json::exception& error) {
            listen(Problem("malformed", error.what()).event(), nullptr);
        }
    }

    void take(const Message& message) {
        const json& header = message.header;
        std::optional<Volume> volume;
        if (starts(message.topic, "volume/")) volume = volume_of(message);
        if (session_of(message) != session) {
            const bool is_joining = session.empty();
            session = session_of(message);
            awaited.clear();
            told.clear();
            listen({{"event", "session"}, {"session", session}}, nullptr);
            catch_up(is_joining);
        }
        if (message.topic == "system/heartbeat/") {
            bool is_ahead = false;
            std::map<std::string, std::uint64_t> ours;
            if (!header.at("sequences").is_object()) throw Problem("malformed", "sequences: none");
            for (const auto& [name, last] : header.at("sequences").items())
                if (starts(name, topic)) is_ahead |= (ours[name] = number(last) + 1) > told[name];
            if (is_ahead) catch_up(false);
            for (const auto& [name, next] : ours) told[name] = next;
        } else if (volume || starts(message.topic, "announce/")) {
            const std::uint64_t sequence = number(header.at("sequence"));
            const Stream stream{text(header, "position"), text(header, "channel")};
            told[message.topic] = sequence + 1;
            if (!volume) return latest(stream, sequence, false);
            repair(stream, sequence, std::nullopt);
            show(*volume, "published", 0);
        } else if (starts(message.topic, "skipped/")) {
            json line{{"event", "skipped"}, {"time", number(header.at("time"))}};
            for (const char* name : {"acquisition", "position", "channel", "reason"})
                line[name] = text(header, name);
            listen(line, nullptr);
        } else if (message.topic == "system/start/") {
            listen({{"event", "start"}, {"acquisition", text(header, "acquisition")},
                    {"shape", shape_of(header)}, {"type", text(header, "type")},
                    {"channels", header.at("channels").get<std::vector<std::string>>()}},
                   nullptr);
        } else if (message.topic == "system/end/") {
            listen({{"event", "end"}, {"acquisition", text(header, "acquisition")},
                    {"reason", text(header, "reason")}},
                   nullptr);
        }
    }

    void show(Volume& volume, const char* how, std::uint64_t passed) {
        std::uint64_t& next = awaited[volume.stream];
        if (volume.sequence < next) return;  // it had come through the control port
        next = volume.sequence + 1;
        volume.line.update({{"how", how}, {"passed", passed}});
        listen(volume.line, &volume);
    }

    // Of all streams: the latest volume, or each one that didn't come.
    void catch_up(bool is_joining) {
        attempt([&] {
            for (const auto& [stream, progress] : catalog())
                if (is_joining || options.latest_only)
                    latest(stream, progress.last, is_joining);
                else
                    repair(stream, progress.last + 1, progress.held);
        });
    }

    // The newest volume, unless number `last` was shown; and how many were passed over.
    void latest(const Stream& stream, std::uint64_t last, bool is_joining) {
        const std::uint64_t next = awaited[stream];
        if (last >= next) attempt([&] {
            Volume volume = fetch(stream, {{"get", "latest"}});
            const bool is_newer = volume.sequence >= next && !is_joining;
            show(volume, "latest", is_newer ? volume.sequence - next : 0);
        });
    }

    // Fetch the volumes before number `until` that didn't come, as far as they are held.
    void repair(const Stream& stream, std::uint64_t until,
                std::optional<std::set<std::uint64_t>> held) {
        const std::uint64_t start = awaited[stream];
        std::uint64_t lost = until - start;
        if (start >= until) return;
        attempt([&] {
            if (!held) held = catalog()[stream].held;
            for (const std::uint64_t wanted : *held) {
                if (wanted < start || wanted >= until) continue;
                Volume volume = fetch(stream, {{"get", "sequence"}, {"sequence", wanted}});
                show(volume, "repaired", 0);
                --lost;
            }
        });
        awaited[stream] = until;
        if (lost > 0)
            listen({{"event", "lost"}, {"position", stream.first}, {"channel", stream.second},
                    {"count", lost}}, nullptr);
    }

    std::map<Stream, Progress> catalog() {
        std::map<Stream, Progress> found;
        const Message reply = ask({{"get", "catalog"}});
        for (const json& one : reply.header.at("streams")) {
            Progress& progress = found[{text(one, "position"), text(one, "channel")}];
            progress.last = number(one.at("last"));
            for (const json& held : one.at("held")) progress.held.insert(number(held));
        }
        return found;
    }

    Volume fetch(const Stream& stream, json request) {
        request.update({{"kind", options.kind}, {"position", stream.first}, {"channel", stream.second}});
        Volume volume = volume_of(ask(request));
        if (volume.stream != stream || request.value("sequence", volume.sequence) != volume.sequence)
            throw Problem("malformed", "another volume came than was asked for");
        return volume;
    }

    // A socket per request: a late answer is never taken for the next one's.
    Message ask(const json& request) {
        zmq::socket_t dealer(context, zmq::socket_type::dealer);
        dealer.set(zmq::sockopt::linger, 0);
        dealer.set(zmq::sockopt::sndtimeo, int(ANSWER.count()));  // a port of another kind hangs up
        dealer.set(zmq::sockopt::rcvtimeo, int(ANSWER.count()));
        connect(dealer, options.control);
        dealer.send(zmq::buffer(request.dump()), zmq::send_flags::none);
        std::vector<zmq::message_t> frames;
        if (!zmq::recv_multipart(dealer, std::back_inserter(frames)))
            throw Problem("unanswered", "no answer from " + options.control);
        Message reply = parse(std::move(frames));
        if (reply.topic == "error/") throw Problem("refused", text(reply.header, "message"));
        if (session_of(reply) != session) throw Problem("refused", "the daemon restarted meanwhile");
        return reply;
    }

    void connect(zmq::socket_t& end, const std::string& endpoint) {
        if (!options.keys.empty()) {
            end.set(zmq::sockopt::curve_serverkey, options.keys.at("server"));
            end.set(zmq::sockopt::curve_publickey, options.keys.at("public"));
            end.set(zmq::sockopt::curve_secretkey, options.keys.at("secret"));
        }
        end.connect(endpoint);
    }
};

}  // namespace live_restore
