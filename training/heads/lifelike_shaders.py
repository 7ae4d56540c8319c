"""GLSL shaders of the lifelike heads, in two passes as those of `training.heads.shaders`.

Surfaces with holes (hair, brows, lashes, lenses) are drawn where their opacity exceeds a threshold that differs from
pixel to pixel, so their order does not matter. Pictures are drawn larger and reduced, which smooths this pattern.
"""

SURFACE_VERTEX = """
#version 330
uniform mat4 camera;
in vec3 position; in vec3 normal;
in vec3 template_position; in vec4 paint; in vec4 cavity_part_layer_opacity; in vec2 uv;
out vec4 v_template; out vec3 v_normal; out vec4 v_paint; out vec2 v_uv;
flat out vec3 v_part;
void main() {
    gl_Position = camera * vec4(position, 1.0);
    v_template = vec4(template_position, cavity_part_layer_opacity.x); v_normal = normal; v_paint = paint; v_uv = uv;
    v_part = cavity_part_layer_opacity.yzw;
}
"""

_SURFACE_INPUTS = """
#version 330
in vec4 v_template; in vec3 v_normal; in vec4 v_paint; in vec2 v_uv;
flat in vec3 v_part;
layout(location = 0) out vec4 surface_template;
layout(location = 1) out vec4 surface_normal;
layout(location = 2) out vec4 surface_paint;
layout(location = 3) out vec4 surface_uv;
// Bytes are twice as fast as floating-point numbers. The last one is the part, plus 8 on back faces.
vec4 packed_normal() {
    return vec4(0.5 + 0.5 * normalize(v_normal), (v_part.x + (gl_FrontFacing ? 0.0 : 8.0)) / 255.0);
}
"""

SURFACE = (
    _SURFACE_INPUTS
    + """
void main() {
    surface_template = v_template;
    surface_normal = packed_normal();
    surface_paint = 0.5 + 0.5 * v_paint;
    surface_uv = vec4(v_uv, v_part.y, 0.0);
}
"""
)

CARDS = (
    _SURFACE_INPUTS
    + """
uniform sampler2DArray albedo;
// thresholds of a 4 x 4 pattern
const float BAYER[16] = float[](0.0, 8.0, 2.0, 10.0, 12.0, 4.0, 14.0, 6.0, 3.0, 11.0, 1.0, 9.0, 15.0, 7.0, 13.0, 5.0);
void main() {
    float alpha = v_part.y < 0.0 ? 1.0 : texture(albedo, vec3(v_uv, v_part.y)).a;
    if (v_part.x > 5.5) alpha = pow(alpha, 0.6);  // brows are a few pixels high
    ivec2 cell = ivec2(gl_FragCoord.xy) & 3;
    // strands of hair lie above each other, so their patterns differ
    float layer = v_part.x == 4.0 ? 0.618 * float(gl_PrimitiveID) : 0.0;
    float threshold = fract((BAYER[cell.y * 4 + cell.x] + 0.5) / 16.0 + layer);
    if (alpha * v_part.z < threshold) discard;
    surface_template = v_template;
    surface_normal = packed_normal();
    surface_paint = 0.5 + 0.5 * v_paint;
    surface_uv = vec4(v_uv, v_part.y, 0.0);
}
"""
)

SHADE = """
#version 330
const int SKIN = 0, EYE = 1, TEETH = 2, TONGUE = 3, HAIR = 4, LASH = 5, BROW = 6, GLASS = 7;
uniform sampler3D noise_texture;
uniform sampler2D surface_template, surface_normal, surface_paint, surface_uv;
uniform sampler2DArray albedo;
uniform vec3 eye_ray, gaze;  // centre of projection in picture coordinates, and slope of the rays
uniform vec3 tint, enamel, lip_colour, hair_colour, brow_colour, cloth_colour;
uniform vec3 key_direction, key_colour, sky_colour, ground_colour, rim_direction, rim_colour;
uniform vec3 camera;  // exposure, contrast, saturation
uniform vec4 beard;   // density, upper limit, moustache, cheeks
uniform vec4 hair;    // density, gloss, curly, parting angle
uniform float gloss, lipstick, freckles, bare, flush, grain;
uniform float eye_layer;
uniform float detail[8];  // mipmap level by part
uniform float ajar;    // 0 lips closed, 1 apart
uniform float tongue;  // 0 in the mouth, 1 out
in vec2 at;
out vec4 colour;

vec3 linear(vec3 level) { return level * (level * (level * 0.305306011 + 0.682171111) + 0.012522878); }

void main() {
    ivec2 pixel = ivec2(gl_FragCoord.xy);
    vec4 template_cavity = texelFetch(surface_template, pixel, 0), normal_part = texelFetch(surface_normal, pixel, 0);
    vec4 paint = texelFetch(surface_paint, pixel, 0) * 2.0 - 1.0, uv_layer = texelFetch(surface_uv, pixel, 0);
    int code = int(normal_part.w * 255.0 + 0.5), part = code & 7;
    vec3 n = normalize(normal_part.xyz * 2.0 - 1.0), view = normalize(vec3((eye_ray.xy - at) * eye_ray.z, 1.0));
    vec3 t = template_cavity.xyz, direction = normalize(paint.xyz + vec3(0.0, 0.0, 1e-6));
    float shine = gloss, rough = 14.0, open = template_cavity.w, wrap = 0.4, side = abs(t.x);
    vec4 speckle = texture(noise_texture, t * grain / 64.0);

    // the iris and the white of the eye, by their direction from the ball's centre
    float angle = acos(clamp(dot(direction, gaze), -1.0, 1.0));
    vec3 sideways = normalize(cross(vec3(0.0, 1.0, 0.0), gaze));
    vec3 tangent = normalize(direction - gaze * dot(direction, gaze) + vec3(1e-5, 0.0, 0.0));
    vec2 around = vec2(dot(tangent, sideways), -dot(tangent, cross(gaze, sideways)));
    // one look-up for all parts: a software driver evaluates every branch at every pixel
    if (part == EYE) uv_layer.xyz = vec3(vec2(0.71, 0.30) + around * min(angle, 1.25) * 0.255, eye_layer);
    vec4 found = textureLod(albedo, uv_layer.xyz, detail[min(part, 7)]);
    vec3 base = linear(found.rgb);

    if (part == SKIN) {
        base *= tint;
        float cheek = exp(-pow((side - 0.42) / 0.24, 2.0) - pow((t.y - 6.95) / 0.22, 2.0)) * step(0.9, t.z);
        float nose_tip = exp(-pow(side / 0.16, 2.0) - pow((t.y - 6.95) / 0.13, 2.0)) * step(1.3, t.z);
        base *= mix(vec3(1.0), vec3(1.06, 0.80, 0.78), clamp((cheek + nose_tip) * flush, 0.0, 1.0));
        base *= 1.0 + 0.10 * (speckle.g - 0.5) + 0.10 * (speckle.r - 0.5);
        base *= mix(vec3(1.0), vec3(0.62, 0.5, 0.42), freckles * speckle.b * smoothstep(0.7, 1.0, t.z));
        float lips = smoothstep(0.2, 0.75, paint.z);
        if (beard.x > 0.0) {
            float jaw = 6.56 + 0.7 * beard.y + 0.55 * smoothstep(0.35, 0.75, side)
                - 0.25 * (1.0 - beard.w) * smoothstep(0.1, 0.4, side);
            float region = smoothstep(0.10, -0.10, t.y - jaw) * smoothstep(5.95, 6.25, t.y + 0.4 * (t.z - 1.2))
                * smoothstep(0.1, 0.45, t.z) * smoothstep(0.85, 0.74, side);
            float lip_top = smoothstep(0.14, 0.05, abs(t.y - 6.74)) * smoothstep(0.36, 0.24, side) * step(1.2, t.z);
            float chin_gap = 1.0 - smoothstep(0.4, 0.28, side) * smoothstep(0.07, 0.0, abs(t.y - 6.62) - 0.1);
            region = max(region * chin_gap, lip_top * beard.z) * (1.0 - lips) * (1.0 - paint.w);
            vec3 grown = mix(base * vec3(0.42, 0.45, 0.50), hair_colour * (0.4 + speckle.g) + 0.01, beard.x);
            base = mix(base, grown, region * min(1.3 * beard.x, 1.0) * (0.55 + 0.45 * speckle.g));
            shine *= 1.0 - 0.6 * region * beard.x;
        }
        base = mix(base, lip_colour * (0.8 + 0.4 * speckle.g), lips * lipstick);
        shine += 0.3 * lips;
        // short hair on the scalp, also below cards; the texture has its own
        float scalp = smoothstep(-0.06, 0.12, paint.x + (speckle.a - 0.5) * 0.12);
        float level = dot(base, vec3(0.3, 0.6, 0.1));
        base = mix(base, hair_colour * (0.5 + speckle.a), scalp * mix(0.75, hair.x * 0.7, bare));
        shine = mix(shine, 0.1, scalp);
        float worn = smoothstep(0.0, 0.02, paint.y);
        base = mix(base, cloth_colour * (0.85 + 0.3 * speckle.a), worn);
        shine = mix(shine, 0.02, worn);
        // the inside of the mouth is dark and red, darker further back
        float inside = smoothstep(0.3, 0.7, paint.w);
        base = mix(base, vec3(0.20, 0.035, 0.03) * smoothstep(0.8, 1.5, t.z), inside);
        open = mix(open, 0.5, inside);
    } else if (part == EYE) {
        base = base * vec3(0.95, 0.92, 0.90);
        // shadow of the lids and the lashes
        open = mix(1.0, 0.4, smoothstep(-0.05, 0.40, direction.y))
            * mix(1.0, 0.55, smoothstep(0.35, 0.95, abs(direction.x)));
        base *= mix(vec3(1.0), vec3(0.9, 0.7, 0.65), smoothstep(0.5, 1.0, abs(direction.x)));
        shine = 2.5; rough = 220.0; wrap = 0.5;
        // the cornea bulges
        n = normalize(mix(n, direction + 0.35 * (direction - gaze) * smoothstep(0.55, 0.3, angle), 0.8));
    } else if (part == TEETH) {
        base *= found.r > 0.55 && found.g < found.r * 0.8 ? vec3(1.0) : enamel;
        open = mix(0.15, 1.0, smoothstep(1.15, 1.48, t.z)) * mix(0.05, 1.0, ajar);
        shine = 0.6 * ajar; rough = 50.0; wrap = 0.6;
    } else if (part == TONGUE) {
        base *= vec3(0.75, 0.5, 0.5);
        open = mix(0.1, 0.7, smoothstep(0.75, 1.4, t.z)) * mix(0.1, 1.0, ajar)
            + 0.4 * tongue * smoothstep(1.0, 1.4, t.z);
        shine = 0.5; rough = 30.0;
    } else if (part == LASH) {
        base = vec3(0.008, 0.006, 0.005);
        shine = 0.0; open = 0.6;
    } else if (part == BROW) {
        base = brow_colour * (0.35 + 0.5 * base.r);
        shine = 0.0; wrap = 0.3;
    } else if (part == GLASS) {
        base = cloth_colour * cloth_colour * 0.5 + 0.01;
        shine = 1.5; rough = 60.0; open = 1.0;
        if (dot(n, view) < 0.0) n = -n;
    } else {
        base = hair_colour * (0.18 + 1.25 * found.r);
        shine = hair.y * (0.2 + 1.4 * found.r);
        rough = 10.0;
        open = mix(0.45, 1.0, smoothstep(0.0, 0.6, found.r)) * (code < 8 ? 1.0 : 0.8);
        n = normalize(n + vec3(0.0, 0.35, 0.15));
        wrap = 0.25;
    }

    float facing = dot(n, key_direction);
    // subsurface scattering: red light spreads further than blue
    vec3 spread = wrap * (part == SKIN || part == TONGUE ? vec3(1.0, 0.5, 0.35) : vec3(0.6));
    vec3 diffuse = max((vec3(facing) + spread) / (1.0 + spread), 0.0) * key_colour;
    vec3 ambient = mix(ground_colour, sky_colour, 0.5 + 0.5 * n.y);
    float rim = max(dot(n, rim_direction), 0.0) * pow(1.0 - max(dot(n, view), 0.0), 2.0);
    float shade = mix(0.35, 1.0, open);
    // light that is reflected between close surfaces of skin is red
    vec3 reflected = part == SKIN ? pow(vec3(open), vec3(0.7, 1.0, 1.1)) : vec3(open);
    vec3 light = diffuse * shade + ambient * reflected + rim_colour * rim;
    vec3 halfway = normalize(key_direction + view);
    float fresnel = 0.35 + 0.65 * pow(1.0 - max(dot(n, view), 0.0), 4.0);
    float sky = part == EYE ? 0.06 * smoothstep(0.2, 0.9, n.y + 0.4) : 0.0;
    vec3 glint = key_colour * shine * pow(max(dot(n, halfway), 0.0), rough) * fresnel * shade
        * smoothstep(-0.1, 0.2, facing) + sky_colour * sky * open;
    vec3 seen = (base * light + glint) * camera.x;
    // response of a camera: highlights roll off, contrast, saturation
    seen = seen * (1.0 + 0.22 * seen) / (1.0 + 0.42 * seen);
    seen = pow(clamp(seen, 0.0, 1.0), vec3(1.0 / 2.2));
    seen = mix(seen, seen * seen * (3.0 - 2.0 * seen), camera.y);
    colour = vec4(clamp(mix(vec3(dot(seen, vec3(0.3, 0.59, 0.11))), seen, camera.z), 0.0, 1.0), 1.0);
}
"""
