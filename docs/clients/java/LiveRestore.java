import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.Closeable;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.zeromq.ZMQ;
import org.zeromq.ZMsg;

/**
 * A client of a live_restore daemon, to copy into your program: both ports, gaps repaired. It needs
 * JeroMQ, Gson and Java 8; Viewer.java shows its use. For one thread alone.
 */
public final class LiveRestore implements Closeable {
    private static final int ANSWER_MS = 2000; // how long to wait for the control port
    private static final long SILENCE_NS = 3_000_000_000L; // the daemon's heart beats once a second

    private static final String[] DESCRIBED = {
        "session", "kind", "acquisition", "position", "time", "channel", "sequence", "type", "shape",
    };

    private final String control, kind, topic;
    private final boolean latestOnly;
    private final Map<String, String> keys;
    private final ZMQ.Context context = ZMQ.context(1);
    private final ZMQ.Socket socket = context.socket(ZMQ.SUB);
    private final ArrayDeque<Event> events = new ArrayDeque<>();
    private final Map<List<String>, Long> awaited = new HashMap<>(); // of position and channel
    private final Map<String, Long> told = new HashMap<>(); // of each topic, by the data port
    private String session;
    private long lastBeat = System.nanoTime();
    private boolean isSilent;

    /**
     * Connects; a daemon that isn't there yet is found when it starts.
     *
     * @param kind "restored" or "raw"
     * @param latestOnly be told what is new and ask for the latest: for slow drawing
     * @param keys "server", "public" and "secret", for a daemon with keys; null for one without
     * @throws UnsupportedOperationException there are keys, and this JeroMQ doesn't know CURVE
     */
    public LiveRestore(String data, String control, String kind, boolean latestOnly, Map<String, String> keys) {
        this.control = control;
        this.kind = kind;
        this.latestOnly = latestOnly;
        this.keys = keys;
        topic = (latestOnly ? "announce/" : "volume/") + kind + "/";
        try {
            socket.setRcvHWM(2);
            socket.setLinger(0);
            for (String wanted : new String[] {topic, "skipped/", "system/"}) {
                socket.subscribe(wanted.getBytes(StandardCharsets.UTF_8));
            }
            connect(socket, data);
        } catch (RuntimeException error) {
            close();
            throw error;
        }
    }

    /** Something that happened: what is said about it, and the volume if it is one, else null. */
    public static final class Event {
        public final JsonObject line;
        public final LiveRestoreVolume volume;

        Event(JsonObject line, LiveRestoreVolume volume) {
            this.line = line;
            this.volume = volume;
        }

        static Event of(String kind, Object... namesAndValues) {
            JsonObject line = new JsonObject();
            line.addProperty("event", kind);
            for (int i = 0; i < namesAndValues.length; i += 2) {
                Object value = namesAndValues[i + 1];
                if (value instanceof JsonElement) line.add((String) namesAndValues[i], (JsonElement) value);
                else if (value instanceof Number) line.addProperty((String) namesAndValues[i], (Number) value);
                else line.addProperty((String) namesAndValues[i], (String) value);
            }
            return new Event(line, null);
        }
    }

    /** The next event, or null when nothing happens for some time. */
    public Event receive(int timeoutMs) {
        if (events.isEmpty()) {
            socket.setReceiveTimeOut(timeoutMs);
            ZMsg frames = ZMsg.recvMsg(socket);
            if (frames != null) {
                attempt(() -> {
                    LiveRestoreMessage message = new LiveRestoreMessage(frames);
                    if (message.topic.equals("system/heartbeat/")) {
                        lastBeat = System.nanoTime();
                        isSilent = false;
                    }
                    take(message);
                });
            } else if (!isSilent && System.nanoTime() - lastBeat > SILENCE_NS) {
                isSilent = true;
                events.add(Event.of("silent", "reason", "no heartbeat for 3 s"));
            }
        }
        return events.poll();
    }

    @Override
    public void close() {
        socket.close();
        context.term();
    }

    private void take(LiveRestoreMessage message) throws LiveRestoreMessage.Problem {
        LiveRestoreVolume volume = message.topic.startsWith("volume/") ? new LiveRestoreVolume(message) : null;
        if (!message.text("session").equals(session)) {
            boolean isJoining = session == null;
            session = message.text("session");
            awaited.clear();
            told.clear();
            events.add(Event.of("session", "session", session));
            catchUp(isJoining);
        }
        if (message.topic.equals("system/heartbeat/")) {
            JsonElement last = message.header.get("sequences");
            if (last == null || !last.isJsonObject()) throw LiveRestoreMessage.malformed("sequences: an object expected");
            Map<String, Long> ours = new HashMap<>();
            for (Map.Entry<String, JsonElement> entry : last.getAsJsonObject().entrySet()) {
                if (entry.getKey().startsWith(topic)) {
                    ours.put(entry.getKey(), LiveRestoreMessage.number(entry.getValue()) + 1);
                }
            }
            if (ours.entrySet().stream().anyMatch(one -> one.getValue() > told.getOrDefault(one.getKey(), 0L))) {
                catchUp(false);
            }
            told.putAll(ours);
        } else if (volume != null || message.topic.startsWith("announce/")) {
            List<String> stream = Arrays.asList(message.text("position"), message.text("channel"));
            long sequence = message.number("sequence");
            told.put(message.topic, sequence + 1);
            if (volume == null) {
                latest(stream, sequence, false);
            } else {
                repair(stream, sequence, null);
                show(volume, "published", 0);
            }
        } else if (message.topic.startsWith("skipped/")) {
            events.add(Event.of("skipped", "acquisition", message.text("acquisition"), "position",
                    message.text("position"), "time", message.number("time"), "channel", message.text("channel"),
                    "reason", message.text("reason")));
        } else if (message.topic.equals("system/start/")) {
            message.shape();
            JsonArray channels = message.array("channels");
            for (JsonElement channel : channels) {
                if (!LiveRestoreMessage.isText(channel)) throw LiveRestoreMessage.malformed("channels: names expected");
            }
            events.add(Event.of("start", "acquisition", message.text("acquisition"), "shape", message.array("shape"),
                    "type", message.text("type"), "channels", channels));
        } else if (message.topic.equals("system/end/")) {
            events.add(Event.of("end", "acquisition", message.text("acquisition"), "reason", message.text("reason")));
        }
    }

    private void show(LiveRestoreVolume volume, String how, long passed) {
        List<String> stream = Arrays.asList(volume.position, volume.channel);
        if (volume.sequence < next(stream)) return; // it had come through the control port
        awaited.put(stream, volume.sequence + 1);
        Event event = Event.of("volume", "how", how, "passed", passed);
        for (String name : DESCRIBED) event.line.add(name, volume.header.get(name));
        events.add(new Event(event.line, volume));
    }

    private long next(List<String> stream) {
        return awaited.getOrDefault(stream, 0L);
    }

    /** Of all streams: the latest volume, or each one that didn't come. */
    private void catchUp(boolean isJoining) {
        attempt(() -> {
            for (Map.Entry<List<String>, Progress> entry : catalog().entrySet()) {
                Progress progress = entry.getValue();
                if (isJoining || latestOnly) latest(entry.getKey(), progress.last, isJoining);
                else repair(entry.getKey(), progress.last + 1, progress.held);
            }
        });
    }

    /** The newest volume, unless number `last` was shown; and how many were passed over. */
    private void latest(List<String> stream, long last, boolean isJoining) {
        long next = next(stream);
        if (last < next) return;
        attempt(() -> {
            LiveRestoreVolume volume = fetch(stream, "latest", null);
            show(volume, "latest", isJoining ? 0 : volume.sequence - next);
        });
    }

    /** Fetch the volumes before number `until` that didn't come, as far as they are held. */
    private void repair(List<String> stream, long until, TreeSet<Long> known) {
        long start = next(stream);
        if (start >= until) return;
        long[] lost = {until - start};
        attempt(() -> {
            TreeSet<Long> held = known != null ? known : catalog().getOrDefault(stream, new Progress()).held;
            for (long wanted : held.subSet(start, until)) {
                show(fetch(stream, "sequence", wanted), "repaired", 0);
                lost[0]--;
            }
        });
        awaited.put(stream, until);
        if (lost[0] > 0) {
            events.add(Event.of("lost", "position", stream.get(0), "channel", stream.get(1), "count", lost[0]));
        }
    }

    private Map<List<String>, Progress> catalog() throws LiveRestoreMessage.Problem {
        JsonObject request = new JsonObject();
        request.addProperty("get", "catalog");
        Map<List<String>, Progress> found = new LinkedHashMap<>();
        for (JsonElement one : ask(request).array("streams")) {
            if (!one.isJsonObject()) throw LiveRestoreMessage.malformed("streams: objects expected");
            JsonObject entry = one.getAsJsonObject();
            Progress progress = new Progress();
            progress.last = LiveRestoreMessage.number(entry.get("last"));
            for (JsonElement held : LiveRestoreMessage.array(entry, "held")) {
                progress.held.add(LiveRestoreMessage.number(held));
            }
            found.put(Arrays.asList(LiveRestoreMessage.text(entry, "position"),
                    LiveRestoreMessage.text(entry, "channel")), progress);
        }
        return found;
    }

    private LiveRestoreVolume fetch(List<String> stream, String what, Long sequence) throws LiveRestoreMessage.Problem {
        JsonObject request = new JsonObject();
        request.addProperty("get", what);
        request.addProperty("kind", kind);
        request.addProperty("position", stream.get(0));
        request.addProperty("channel", stream.get(1));
        if (sequence != null) request.addProperty("sequence", sequence);
        LiveRestoreVolume volume = new LiveRestoreVolume(ask(request));
        boolean isRight = stream.equals(Arrays.asList(volume.position, volume.channel));
        if (!isRight || sequence != null && volume.sequence != sequence) {
            throw LiveRestoreMessage.malformed("another volume came than was asked for");
        }
        return volume;
    }

    /** A socket per request: a late answer is never taken for the next one's. */
    private LiveRestoreMessage ask(JsonObject request) throws LiveRestoreMessage.Problem {
        ZMQ.Socket dealer = context.socket(ZMQ.DEALER);
        try {
            dealer.setLinger(0);
            dealer.setSendTimeOut(ANSWER_MS); // a port of another kind hangs up
            dealer.setReceiveTimeOut(ANSWER_MS);
            connect(dealer, control);
            dealer.send(request.toString().getBytes(StandardCharsets.UTF_8));
            ZMsg frames = ZMsg.recvMsg(dealer);
            if (frames == null) throw new LiveRestoreMessage.Problem("unanswered", "no answer from " + control);
            LiveRestoreMessage reply = new LiveRestoreMessage(frames);
            if (reply.topic.equals("error/")) throw new LiveRestoreMessage.Problem("refused", reply.text("message"));
            if (!reply.text("session").equals(session)) {
                throw new LiveRestoreMessage.Problem("refused", "the daemon restarted meanwhile");
            }
            return reply;
        } finally {
            dealer.close();
        }
    }

    private void connect(ZMQ.Socket socket, String endpoint) {
        if (keys != null) {
            for (String owner : new String[] {"Server", "Public", "Secret"}) {
                byte[] key = keys.get(owner.toLowerCase()).getBytes(StandardCharsets.US_ASCII);
                try { // by name: JeroMQ 0.3, which Debian has, must compile this too
                    ZMQ.Socket.class.getMethod("setCurve" + owner + "Key", byte[].class).invoke(socket, key);
                } catch (ReflectiveOperationException error) {
                    throw new UnsupportedOperationException("this JeroMQ doesn't know CURVE: take 0.5 or newer, "
                            + "or watch through an SSH tunnel (docs/keys.md)", error);
                }
            }
        }
        socket.connect(endpoint);
    }

    private interface Action {
        void run() throws LiveRestoreMessage.Problem;
    }

    private void attempt(Action action) {
        try {
            action.run();
        } catch (LiveRestoreMessage.Problem problem) {
            events.add(Event.of(problem.kind, "reason", problem.getMessage()));
        }
    }

    private static final class Progress {
        long last;
        final TreeSet<Long> held = new TreeSet<>();
    }
}
