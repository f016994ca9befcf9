// WebGL2: programs, and textures that are filled again where their size stays.

/** A program of two shaders, with its uniforms by name. */
export function makeProgram(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
      throw new Error(gl.getShaderInfoLog(shader));
    }
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(gl.getProgramInfoLog(program));
  }
  const uniforms = {};
  const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) ?? 0;
  for (let index = 0; index < count; index++) {
    const { name } = gl.getActiveUniform(program, index);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}

/** An image as a texture: into `before`'s memory where that has its shape. */
export function fillTexture(gl, image, before) {
  const isBlock = image.shape.length === 3;
  const target = isBlock ? gl.TEXTURE_3D : gl.TEXTURE_2D;
  const size = [...image.shape].reverse();
  const isSame = before && before.target === target && `${before.size}` === `${size}`;
  if (before && !isSame) gl.deleteTexture(before.texture);
  const texture = isSame ? before.texture : gl.createTexture();
  gl.bindTexture(target, texture);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 2);
  if (!isSame) {
    gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, isBlock ? gl.LINEAR : gl.NEAREST);
    for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) {
      gl.texParameteri(target, wrap, gl.CLAMP_TO_EDGE);
    }
    if (isBlock) gl.texStorage3D(target, 1, gl.R16F, ...size);
    else gl.texStorage2D(target, 1, gl.R16F, ...size);
  }
  if (isBlock) gl.texSubImage3D(target, 0, 0, 0, 0, ...size, gl.RED, gl.HALF_FLOAT, image.half);
  else gl.texSubImage2D(target, 0, 0, 0, ...size, gl.RED, gl.HALF_FLOAT, image.half);
  return { texture, target, size };
}
