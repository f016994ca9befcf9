import ij.IJ;
import ij.ImagePlus;
import ij.gui.GenericDialog;
import ij.plugin.PlugIn;
import java.awt.Point;
import java.util.HashMap;
import java.util.Map;

/**
 * ImageJ and Fiji: Plugins > live_restore > Watch live_restore... A window per position, updated with
 * each volume, until all windows are closed. In a macro:
 * run("Watch live_restore...", "data=tcp://127.0.0.1:5556 control=tcp://127.0.0.1:5557 volumes=restored");
 */
public final class Live_Restore_ implements PlugIn {
    private final Map<String, LiveImage> positions = new HashMap<>();

    @Override
    public void run(String argument) {
        GenericDialog dialog = new GenericDialog("Watch live_restore");
        dialog.addStringField("Data", "tcp://127.0.0.1:5556", 30);
        dialog.addStringField("Control", "tcp://127.0.0.1:5557", 30);
        dialog.addChoice("Volumes", new String[] {"restored", "raw"}, "restored");
        dialog.showDialog();
        if (dialog.wasCanceled()) return;
        String data = dialog.getNextString();
        String control = dialog.getNextString();
        String kind = dialog.getNextChoice();
        Thread thread = new Thread(() -> watch(data, control, kind), "live_restore");
        thread.setDaemon(true);
        thread.start();
    }

    private void watch(String data, String control, String kind) {
        // Drawing may be slower than the microscope: be told what is new, and ask for the latest.
        try (LiveRestore client = new LiveRestore(data, control, kind, true, null)) {
            IJ.showStatus("live_restore: waiting for volumes");
            while (positions.isEmpty() || positions.values().stream().anyMatch(Live_Restore_::isOpen)) {
                LiveRestore.Event event = client.receive(200);
                if (event == null) continue;
                if (event.volume == null) IJ.showStatus("live_restore: " + event.line);
                else show(event.volume);
            }
            IJ.showStatus("live_restore: ended");
        } catch (RuntimeException error) {
            IJ.handleException(error);
        }
    }

    private static boolean isOpen(LiveImage live) {
        return live.image().getWindow() != null;
    }

    private void show(LiveRestoreVolume volume) {
        LiveImage live = positions.get(volume.position);
        if (live == null) {
            live = new LiveImage();
            live.update(volume);
            live.image().show();
            positions.put(volume.position, live);
        } else if (isOpen(live)) { // else the user has closed it
            ImagePlus before = live.image();
            if (!live.update(volume)) {
                live.redraw();
                return;
            }
            Point place = before.getWindow().getLocation();
            before.changes = false;
            before.close();
            live.image().show();
            live.image().getWindow().setLocation(place);
        }
    }
}
