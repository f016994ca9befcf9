import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.zeromq.ZFrame;
import org.zeromq.ZMsg;

/** What came over the wire, checked as it is read: topic, header, planes from the third frame on. */
final class LiveRestoreMessage {
    private static final long LARGEST_AXIS = 1 << 20;

    final String topic;
    final JsonObject header;
    final List<ZFrame> frames;

    LiveRestoreMessage(ZMsg message) throws Problem {
        frames = new ArrayList<>(message);
        if (frames.size() < 2) throw malformed("topic and header expected, one frame came");
        topic = decoded(frames.get(0));
        try {
            JsonElement parsed = JsonParser.parseString(decoded(frames.get(1)));
            boolean isOurs = parsed.isJsonObject();
            header = isOurs ? parsed.getAsJsonObject() : new JsonObject();
            if (!isOurs || header.has("v") && number("v") != 1) {
                throw malformed("a header of protocol 1 expected");
            }
        } catch (JsonParseException error) {
            throw malformed("not JSON");
        }
    }

    private static String decoded(ZFrame frame) throws Problem {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(frame.getData())).toString();
        } catch (CharacterCodingException error) {
            throw malformed("not UTF-8");
        }
    }

    /** Something that is said and then passed over: malformed, refused or unanswered. */
    static final class Problem extends Exception {
        private static final long serialVersionUID = 1;
        final String kind;

        Problem(String kind, String reason) {
            super(reason);
            this.kind = kind;
        }
    }

    static Problem malformed(String reason) {
        return new Problem("malformed", reason);
    }

    String text(String name) throws Problem {
        return text(header, name);
    }

    static String text(JsonObject object, String name) throws Problem {
        if (!isText(object.get(name))) throw malformed(name + ": text expected");
        return object.get(name).getAsString();
    }

    static boolean isText(JsonElement value) {
        return value != null && value.isJsonPrimitive() && value.getAsJsonPrimitive().isString();
    }

    JsonArray array(String name) throws Problem {
        return array(header, name);
    }

    static JsonArray array(JsonObject object, String name) throws Problem {
        JsonElement value = object.get(name);
        if (value == null || !value.isJsonArray()) throw malformed(name + ": a list expected");
        return value.getAsJsonArray();
    }

    long number(String name) throws Problem {
        return number(header.get(name));
    }

    static long number(JsonElement value) throws Problem {
        try {
            boolean isNumber = value != null && value.isJsonPrimitive() && value.getAsJsonPrimitive().isNumber();
            long count = isNumber ? value.getAsBigDecimal().longValueExact() : -1;
            if (0 <= count && count < 1L << 53) return count;
        } catch (ArithmeticException | NumberFormatException error) {
            // neither whole nor within 64 bits: said below
        }
        throw malformed("a count expected, another value came");
    }

    /** [z, y, x]. */
    int[] shape() throws Problem {
        JsonArray shape = array("shape");
        if (shape.size() != 3) throw malformed("shape: [z, y, x] expected");
        int[] result = new int[3];
        for (int axis = 0; axis < 3; axis++) {
            long size = number(shape.get(axis));
            if (size < 1 || size >= LARGEST_AXIS) throw malformed("shape: an axis of " + size + " voxels");
            result[axis] = (int) size;
        }
        return result;
    }
}
