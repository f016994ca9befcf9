function live_restore_viewer(jars, data, control)
%LIVE_RESTORE_VIEWER Show each volume of a live_restore daemon as it comes.
%   LIVE_RESTORE_VIEWER(JARS) watches this PC's daemon until the window is closed. JARS is a cell array:
%   jeromq.jar, gson.jar, and the folder of the compiled classes of docs/clients/java.
%   LIVE_RESTORE_VIEWER(JARS, DATA, CONTROL) watches other ports, as 'tcp://127.0.0.1:5556'.
%
%   Each volume is put into the base workspace as `volume`, (y, x, z), and its maximum projection is shown.

    if nargin < 2, data = 'tcp://127.0.0.1:5556'; end
    if nargin < 3, control = 'tcp://127.0.0.1:5557'; end
    javaaddpath(jars);
    % Drawing may be slower than the microscope: be told what is new, and ask for the latest.
    client = javaObject('LiveRestore', data, control, 'restored', true, []);
    closing = onCleanup(@() client.close());
    window = figure('Name', 'live_restore');
    while ishandle(window)
        event = client.receive(200);
        drawnow;
        if isempty(event) || ~ishandle(window), continue; end
        if isempty(event.volume)
            disp(char(event.line.toString()));
            continue
        end
        volume = voxels(event.volume);
        assignin('base', 'volume', volume);
        imagesc(max(volume, [], 3));
        axis image;
        colormap gray;
        size_um = event.volume.voxelSizeUm();
        if isempty(size_um), size_um = [NaN; NaN; NaN]; end
        title(sprintf('%s, position %s, %s, time %d (%g x %g x %g um)', ...
            char(event.volume.acquisition), char(event.volume.position), ...
            char(event.volume.channel), event.volume.time, size_um), 'Interpreter', 'none');
    end
end

function volume = voxels(received)
% The array (y, x, z) of a received volume, whose planes are rows of x.
    type = char(received.type);
    if strcmp(type, 'float32'), type = 'single'; end
    volume = zeros(received.ny, received.nx, received.nz, type);
    for z = 1:received.nz
        plane = typecast(received.bytes(z - 1), type);
        volume(:, :, z) = reshape(plane, received.nx, received.ny)';
    end
end
