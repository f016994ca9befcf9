import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import org.zeromq.ZFrame;

/** A volume. */
public final class LiveRestoreVolume {
    /** All that is said about it; see docs/header.schema.json. */
    public final JsonObject header;
    public final String kind, acquisition, position, channel;
    /** "uint8", "uint16" or "float32". */
    public final String type;
    public final long sequence, time;
    public final int nz, ny, nx;
    private final ZFrame[] planes;

    LiveRestoreVolume(LiveRestoreMessage message) throws LiveRestoreMessage.Problem {
        header = message.header;
        kind = message.text("kind");
        acquisition = message.text("acquisition");
        position = message.text("position");
        channel = message.text("channel");
        type = message.text("type");
        sequence = message.number("sequence");
        time = message.number("time");
        int[] shape = message.shape();
        nz = shape[0];
        ny = shape[1];
        nx = shape[2];
        int voxelBytes = Arrays.asList("", "uint8", "uint16", "", "float32").indexOf(type);
        if (voxelBytes < 1 || header.has("encoding") && !message.text("encoding").equals("raw")) {
            throw LiveRestoreMessage.malformed("this client doesn't know voxels of type " + type);
        }
        planes = message.frames.subList(2, message.frames.size()).toArray(new ZFrame[0]);
        long planeBytes = (long) ny * nx * voxelBytes;
        if (planes.length != nz || Arrays.stream(planes).anyMatch(plane -> plane.size() != planeBytes)) {
            throw LiveRestoreMessage.malformed(nz + " planes of " + planeBytes + " bytes expected, others came");
        }
    }

    /** Bytes of a plane, which count from 0: rows of x, little-endian. */
    public byte[] bytes(int z) {
        return planes[z].getData();
    }

    /** A plane as ImageJ and others hold it: byte[], short[] (both without sign) or float[]. */
    public Object pixels(int z) {
        ByteBuffer buffer = ByteBuffer.wrap(bytes(z)).order(ByteOrder.LITTLE_ENDIAN);
        if (type.equals("uint8")) return bytes(z);
        if (type.equals("uint16")) {
            short[] pixels = new short[ny * nx];
            buffer.asShortBuffer().get(pixels);
            return pixels;
        }
        float[] pixels = new float[ny * nx];
        buffer.asFloatBuffer().get(pixels);
        return pixels;
    }

    /** [z, y, x] in µm, or null when unknown. */
    public double[] voxelSizeUm() {
        return numbers(header.get("voxel_size_um"), 3);
    }

    /** Where contrast may begin and end, ignoring one voxel in a thousand; null when unknown. */
    public double[] contrast() {
        JsonElement all = header.get("statistics");
        if (all == null || !all.isJsonObject()) return null;
        JsonArray limits = new JsonArray();
        limits.add(all.getAsJsonObject().get("p0_1"));
        limits.add(all.getAsJsonObject().get("p99_9"));
        return numbers(limits, 2);
    }

    private static double[] numbers(JsonElement list, int count) {
        if (list == null || !list.isJsonArray() || list.getAsJsonArray().size() != count) return null;
        double[] numbers = new double[count];
        for (int i = 0; i < count; i++) {
            JsonElement one = list.getAsJsonArray().get(i);
            if (!one.isJsonPrimitive() || !one.getAsJsonPrimitive().isNumber()) return null;
            numbers[i] = one.getAsDouble();
        }
        return numbers;
    }
}
