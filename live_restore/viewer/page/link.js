// The socket to `live-restore view`: one message at a time, each acknowledged when it is drawn.

const RETRY_MS = 1000;

export class Link {
  /** Calls `onMessage(header, images)` for each message, and `onState(isOpen)`. */
  constructor(onMessage, onState) {
    this.onMessage = onMessage;
    this.onState = onState;
    this.socket = null;
    this.view = null;
    this.heardAt = performance.now();
  }

  open() {
    const socket = new WebSocket(`ws://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.socket = socket;
      this.onState(true);
      if (this.view) this.send({ view: this.view });
    };
    socket.onmessage = (event) => {
      this.heardAt = performance.now();
      this.onMessage(...unpacked(event.data));
    };
    socket.onclose = () => {
      if (this.socket === socket) this.socket = null;
      this.onState(false);
      setTimeout(() => this.open(), RETRY_MS);
    };
  }

  /** What is to be seen from now on. */
  wish(view) {
    this.view = view;
    this.send({ view });
  }

  /** Message `number` is on the screen: the next one may come. */
  drawn(number) {
    this.send({ drawn: number });
  }

  send(body) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(body));
  }
}

function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const images = header.images.map((one) => ({
    ...one,
    half: new Uint16Array(buffer, start + one.offset, one.shape.reduce((a, b) => a * b, 1)),
  }));
  return [header, images];
}
