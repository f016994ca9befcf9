import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Watches a live_restore daemon: one line of JSON per volume and per event.
 *
 * <pre>
 * javac -cp jeromq.jar:gson.jar *.java
 * java -cp jeromq.jar:gson.jar:. Viewer --data tcp://127.0.0.1:5556 --control tcp://127.0.0.1:5557
 * </pre>
 */
public final class Viewer {
    public static void main(String[] arguments) throws IOException {
        Map<String, String> options = new HashMap<>();
        options.put("--data", "tcp://127.0.0.1:5556");
        options.put("--control", "tcp://127.0.0.1:5557");
        options.put("--kind", "restored");
        options.put("--count", "-1");
        try {
            read(arguments, options);
            long left = Long.parseLong(options.get("--count"));
            watch(options, left);
        } catch (RuntimeException | IOException error) {
            System.err.println("can't connect: " + error.getMessage());
            System.exit(2);
        }
    }

    private static void watch(Map<String, String> options, long count) throws IOException {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        Map<String, String> keys = options.containsKey("--keys") ? readKeys(options.get("--keys")) : null;
        boolean latestOnly = options.containsKey("--latest");
        try (LiveRestore client = new LiveRestore(options.get("--data"), options.get("--control"),
                options.get("--kind"), latestOnly, keys)) {
            for (long left = count; left != 0; ) {
                LiveRestore.Event event = client.receive(200);
                if (event == null) continue;
                if (event.volume != null) {
                    measure(event.volume, event.line);
                    left--;
                }
                out.println(event.line);
            }
        }
    }

    /** Into a line about a volume: the sum of its voxels, their extremes and where the brightest is. */
    private static void measure(LiveRestoreVolume volume, JsonObject line) {
        double sum = 0, min = Double.POSITIVE_INFINITY, max = Double.NEGATIVE_INFINITY;
        int[] brightest = {0, 0, 0};
        for (int z = 0; z < volume.nz; z++) {
            ByteBuffer plane = ByteBuffer.wrap(volume.bytes(z)).order(ByteOrder.LITTLE_ENDIAN);
            for (int i = 0; i < volume.ny * volume.nx; i++) {
                double voxel = volume.type.equals("uint8") ? plane.get() & 0xff
                        : volume.type.equals("uint16") ? plane.getShort() & 0xffff : plane.getFloat();
                sum += voxel;
                min = Math.min(min, voxel);
                if (voxel > max) {
                    max = voxel;
                    brightest = new int[] {z, i / volume.nx, i % volume.nx};
                }
            }
        }
        add(line, "sum", sum);
        add(line, "min", min);
        add(line, "max", max);
        JsonArray place = new JsonArray();
        for (int index : brightest) place.add(index);
        line.add("brightest", place);
    }

    /** JSON has no infinity, and knows what isn't a number as null. */
    private static void add(JsonObject line, String name, double value) {
        line.addProperty(name, Double.isNaN(value) || Double.isInfinite(value) ? null : value);
    }

    private static void read(String[] arguments, Map<String, String> options) {
        for (int i = 0; i < arguments.length; i++) {
            String name = arguments[i];
            if (name.equals("--latest")) {
                options.put(name, "");
            } else if (i + 1 < arguments.length && (options.containsKey(name) || name.equals("--keys"))) {
                options.put(name, arguments[++i]);
            } else {
                throw new IllegalArgumentException(name + ": unknown, or its value is missing");
            }
        }
    }

    /** The three keys in a file of live-restore keys. */
    private static Map<String, String> readKeys(String file) throws IOException {
        Map<String, String> keys = new HashMap<>();
        Pattern pattern = Pattern.compile("(\\w+)\\s*=\\s*\"(.*)\"\\s*");
        for (String line : Files.readAllLines(Paths.get(file), StandardCharsets.UTF_8)) {
            Matcher found = pattern.matcher(line);
            if (found.matches()) keys.put(found.group(1), found.group(2));
        }
        for (String name : new String[] {"server", "public", "secret"}) {
            if (!keys.containsKey(name)) throw new IOException(file + ": " + name + " is missing");
        }
        return keys;
    }
}
