import ij.CompositeImage;
import ij.ImagePlus;
import ij.ImageStack;
import ij.measure.Calibration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * One position as a hyperstack (channels, z) with each channel's newest volume; calibrated in µm. An
 * update changes voxels alone: slice, zoom and contrast stay as the user left them.
 */
final class LiveImage {
    private final Map<String, LiveRestoreVolume> newest = new LinkedHashMap<>(); // by channel
    private ImagePlus image;

    /** The hyperstack; null before the first volume. */
    ImagePlus image() {
        return image;
    }

    /** Put a volume in; true if that needed another hyperstack, as for another channel or size. */
    boolean update(LiveRestoreVolume volume) {
        newest.values().removeIf(other -> !isAlike(other, volume)); // of another acquisition
        boolean isNew = newest.put(volume.channel, volume) == null;
        if (isNew) {
            make(volume);
        } else {
            fill(volume);
        }
        image.setTitle(volume.acquisition + ", position " + volume.position + ", time " + volume.time);
        image.setProperty("Info", volume.header.toString());
        return isNew;
    }

    /** Draw what `update` changed. */
    void redraw() {
        if (image instanceof CompositeImage) {
            ((CompositeImage) image).updateAllChannelsAndDraw();
        } else {
            image.updateAndDraw();
        }
    }

    private static boolean isAlike(LiveRestoreVolume a, LiveRestoreVolume b) {
        return a.type.equals(b.type) && a.nz == b.nz && a.ny == b.ny && a.nx == b.nx;
    }

    private void make(LiveRestoreVolume volume) {
        ImageStack stack = new ImageStack(volume.nx, volume.ny);
        for (int z = 0; z < volume.nz; z++) { // within a slice, channels follow each other
            for (String channel : newest.keySet()) stack.addSlice(channel, newest.get(channel).pixels(z));
        }
        image = new ImagePlus("", stack);
        image.setDimensions(newest.size(), volume.nz, 1);
        image.setOpenAsHyperStack(true);
        if (newest.size() > 1) image = new CompositeImage(image, CompositeImage.COMPOSITE);
        calibrate(volume.voxelSizeUm());
        int c = 0;
        for (LiveRestoreVolume one : newest.values()) {
            image.setPositionWithoutUpdate(++c, 1, 1);
            double[] limits = one.contrast();
            if (limits != null && limits[0] < limits[1]) image.setDisplayRange(limits[0], limits[1]);
        }
        image.setPosition(1, (volume.nz + 1) / 2, 1);
    }

    private void calibrate(double[] voxelSizeUm) {
        if (voxelSizeUm == null) return;
        Calibration calibration = image.getCalibration();
        calibration.setUnit("um"); // ImageJ writes it as µm
        calibration.pixelDepth = voxelSizeUm[0];
        calibration.pixelHeight = voxelSizeUm[1];
        calibration.pixelWidth = voxelSizeUm[2];
    }

    private void fill(LiveRestoreVolume volume) {
        int c = new ArrayList<>(newest.keySet()).indexOf(volume.channel);
        for (int z = 0; z < volume.nz; z++) { // slices count from 1
            Object shown = image.getStack().getPixels(z * newest.size() + c + 1);
            System.arraycopy(volume.pixels(z), 0, shown, 0, volume.ny * volume.nx);
        }
    }
}
