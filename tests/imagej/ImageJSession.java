import ij.IJ;
import ij.ImageJ;
import ij.ImagePlus;
import ij.WindowManager;
import ij.gui.ImageCanvas;
import ij.io.FileSaver;
import java.awt.AWTException;
import java.awt.Point;
import java.awt.Robot;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;

/** ImageJ, as a user would have it, told by a test what to do; a line of answer for each command. */
public final class ImageJSession {
    public static void main(String[] arguments) throws IOException, AWTException {
        new ImageJ();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] words = line.split(" ", 2);
            System.out.println(obey(words[0], words.length > 1 ? words[1] : ""));
        }
        System.exit(0);
    }

    private static String obey(String command, String rest) throws AWTException {
        int[] identities = WindowManager.getIDList();
        ImagePlus image = identities == null ? null : WindowManager.getImage(identities[0]);
        switch (command) {
            case "watch":
                IJ.run("Watch live_restore...", rest);
                return "told";
            case "titles":
                StringBuilder titles = new StringBuilder();
                for (int i = 0; identities != null && i < identities.length; i++) {
                    titles.append(WindowManager.getImage(identities[i]).getTitle()).append(';');
                }
                return titles.toString();
            case "save":
                new FileSaver(image).saveAsTiff(rest);
                return "saved";
            case "slice":
                image.setSlice(Integer.parseInt(rest));
                return "set";
            case "limits":
                image.setDisplayRange(Double.parseDouble(rest.split(" ")[0]), Double.parseDouble(rest.split(" ")[1]));
                image.updateAndDraw();
                return "set";
            case "shown": // what the user sees in this moment, and the grey of voxel (1, 2) on the screen
                ImageCanvas canvas = image.getCanvas();
                Point corner = canvas.getLocationOnScreen();
                int x = corner.x + canvas.screenX(2), y = corner.y + canvas.screenY(1);
                return image.getID() + " " + image.getCurrentSlice() + " " + image.getDisplayRangeMin() + " "
                        + image.getDisplayRangeMax() + " " + new Robot().getPixelColor(x, y).getGreen();
            case "close":
                image.changes = false;
                image.close();
                return "closed";
            case "threads":
                return "" + Thread.getAllStackTraces().keySet().stream()
                        .filter(thread -> thread.getName().equals("live_restore")).count();
            default:
                throw new IllegalArgumentException(command);
        }
    }
}
