// Draws images into cells of the canvas: flat ones, and blocks by maximum-projection ray casting. Channels add up.

import { fillTexture, makeProgram } from "./gl.js";

const CORNERS = `#version 300 es
precision highp float;
uniform vec2 half_size;   // of the cell, in its unit of length
uniform vec2 middle;      // what lies in its middle
out vec2 place;
void main() {
  vec2 corner = vec2(float(gl_VertexID & 1), float(gl_VertexID >> 1)) * 2.0 - 1.0;
  place = middle + vec2(corner.x, -corner.y) * half_size;
  gl_Position = vec4(corner, 0.0, 1.0);
}`;

const SHADE = `
uniform vec2 limits;
uniform float gamma;
uniform vec3 color;
out vec4 fragment;
void shade(float value) {
  float bright = clamp((value - limits.x) / max(limits.y - limits.x, 1e-7), 0.0, 1.0);
  fragment = vec4(color * pow(bright, gamma), 1.0);
}`;

const FLAT = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D image;
uniform vec2 extent;
in vec2 place;
${SHADE}
void main() {
  vec2 at = place / extent;
  if (any(lessThan(at, vec2(0.0))) || any(greaterThan(at, vec2(1.0)))) discard;
  shade(texture(image, at).r);
}`;

const BLOCK = `#version 300 es
precision highp float;
precision highp sampler3D;
uniform sampler3D image;
uniform vec3 extent;
uniform mat3 turn;        // from the screen's axes to the block's
const int STEPS = 256;
in vec2 place;
${SHADE}
void main() {
  vec3 start = turn * vec3(place, 0.0);
  vec3 along = turn * vec3(0.0, 0.0, 1.0);
  along = mix(along, vec3(1e-6), lessThan(abs(along), vec3(1e-6)));
  vec3 one = (-0.5 * extent - start) / along;
  vec3 other = (0.5 * extent - start) / along;
  vec3 near = min(one, other), far = max(one, other);
  float first = max(max(near.x, near.y), near.z);
  float last = min(min(far.x, far.y), far.z);
  if (last <= first) discard;
  float best = -1.0;
  float stride = (last - first) / float(STEPS);
  for (int step = 0; step < STEPS; step++) {
    vec3 at = start + along * (first + (float(step) + 0.5) * stride);
    best = max(best, texture(image, at / extent + 0.5).r);
  }
  shade(best);
}`;

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!this.gl) throw new Error("This browser has no WebGL 2, which the viewer draws with. Another one, or a newer one, will do.");
    this.prepare();
  }

  /** Programs; again when the GPU was lost. */
  prepare() {
    this.flat = makeProgram(this.gl, CORNERS, FLAT);
    this.block = makeProgram(this.gl, CORNERS, BLOCK);
    this.gl.bindVertexArray(this.gl.createVertexArray());
  }

  /** A texture for an image; see `fillTexture`. */
  fill(image, before) {
    return fillTexture(this.gl, image, before);
  }

  forget(filled) {
    this.gl.deleteTexture(filled.texture);
  }

  /** An empty canvas. */
  clear() {
    const { gl } = this;
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.SCISSOR_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
  }

  /** Waits until all is drawn. */
  finish() {
    this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  /** One channel of a cell; `clip` and `cell` are {x, y, width, height} in CSS pixels from the upper left. */
  draw(cell, clip, filled, look, camera) {
    const { gl } = this;
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const box = (one) => [
      Math.round(one.x * ratio),
      Math.round(this.canvas.height - (one.y + one.height) * ratio),
      Math.max(0, Math.round(one.width * ratio)),
      Math.max(0, Math.round(one.height * ratio)),
    ];
    gl.viewport(...box(cell));
    gl.scissor(...box(clip));
    const isBlock = filled.target === gl.TEXTURE_3D;
    const { program, uniforms } = isBlock ? this.block : this.flat;
    gl.useProgram(program);
    gl.bindTexture(filled.target, filled.texture);
    gl.uniform1i(uniforms.image, 0);
    gl.uniform2f(uniforms.half_size, cell.width / 2 / camera.zoom, cell.height / 2 / camera.zoom);
    gl.uniform2f(uniforms.middle, ...camera.middle);
    gl.uniform2f(uniforms.limits, ...look.limits);
    gl.uniform1f(uniforms.gamma, look.gamma);
    gl.uniform3f(uniforms.color, ...look.color);
    if (isBlock) {
      gl.uniform3f(uniforms.extent, ...camera.extent);
      gl.uniformMatrix3fv(uniforms.turn, false, camera.turn);
    } else {
      gl.uniform2f(uniforms.extent, ...camera.extent);
    }
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
}
