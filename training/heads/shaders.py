"""GLSL shaders of the heads. Colours are placed on the average head, so they follow every shape and expression.

Heads are rendered in two passes: SURFACE stores the surface of every pixel, SHADE then shades all pixels at once. Most
triangles are smaller than the pixel blocks of a software driver, so shading in the first pass would process most pixels
several times.
"""

SURFACE_VERTEX = """
#version 330
uniform mat4 camera;
in vec3 position; in vec3 normal;
in vec3 template_position; in vec4 paint; in vec2 cavity_part;
out vec4 v_template; out vec3 v_normal; out vec4 v_paint;
flat out float v_part;
void main() {
    gl_Position = camera * vec4(position, 1.0);
    v_template = vec4(template_position, cavity_part.x); v_normal = normal; v_paint = paint; v_part = cavity_part.y;
}
"""

SURFACE = """
#version 330
in vec4 v_template; in vec3 v_normal; in vec4 v_paint;
flat in float v_part;
layout(location = 0) out vec4 surface_template;
layout(location = 1) out vec4 surface_normal;
layout(location = 2) out vec4 surface_paint;
void main() {
    surface_template = v_template;
    surface_normal = vec4(v_normal, gl_FrontFacing ? v_part : -v_part);
    surface_paint = v_paint;
}
"""

OUTLINE = """
#version 330
uniform mat4 camera;
in vec3 position;
invariant gl_Position;
void main() { gl_Position = camera * vec4(position, 1.0); }
"""

WHOLE_PICTURE = """
#version 330
out vec2 at;
void main() {
    at = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
    gl_Position = vec4(at, 0.99999, 1.0);
}
"""

SHADE = """
#version 330
const int SKIN = 0, EYE = 1, TEETH = 2, TONGUE = 3, HAIR = 4, LASH = 5;
uniform sampler3D noise_texture;
uniform sampler2D surface_template, surface_normal, surface_paint;
uniform vec3 eye_ray, gaze;  // centre of projection in picture coordinates, and slope of the rays
uniform vec3 skin_colour, lip_colour, hair_colour, brow_colour, iris_colour, cloth_colour;
uniform vec3 key_direction, key_colour, sky_colour, ground_colour, rim_direction, rim_colour;
uniform vec4 brow;    // half height, lift, tilt, density
uniform vec4 beard;   // density, upper limit, moustache, cheeks
uniform vec4 hair;    // density, gloss, curly, parting angle
uniform vec4 blotch;  // amount, redness, offset, wrinkles and freckles
uniform float gloss;
uniform float ajar;    // 0 lips closed, 1 apart
uniform float tongue;  // 0 in the mouth, 1 out
in vec2 at;
out vec4 colour;

// r: patches, g: grain, b: spots, a: clumps; 64 cells a side
vec4 noise(vec3 p) { return texture(noise_texture, p / 64.0); }

void main() {
    ivec2 pixel = ivec2(gl_FragCoord.xy);
    vec4 template_cavity = texelFetch(surface_template, pixel, 0), normal_part = texelFetch(surface_normal, pixel, 0);
    // on skin: above the hairline, below the collar, lips, inside of the mouth; elsewhere the local direction
    vec4 paint = texelFetch(surface_paint, pixel, 0);
    int part = int(abs(normal_part.w) + 0.5);
    vec3 n = normalize(normal_part.xyz), view = normalize(vec3((eye_ray.xy - at) * eye_ray.z, 1.0));
    vec3 t = template_cavity.xyz, local = paint.xyz;
    vec3 albedo = skin_colour;
    float shine = gloss, rough = 18.0, open = template_cavity.w, wrap = 0.35, side = abs(t.x);

    // two texture look-ups for all parts: a software driver evaluates every branch at every pixel
    vec4 speckle = noise(t * 20.0 + blotch.z);
    vec3 eye_axis = normalize(local + vec3(0.0, 0.0, 1e-6));
    vec2 comb = vec2(cos(hair.w), sin(hair.w)) * 0.35;
    vec3 strand = mix(vec3((t.x + comb.x * t.z) * 45.0, t.y * 7.0 + comb.y * 12.0 * t.x, t.z * 6.0), t * 32.0, hair.z);
    if (part == HAIR) strand = vec3(local.x * 110.0, local.y * 4.0, 1.0);
    if (part == EYE) strand = normalize(eye_axis - gaze * dot(eye_axis, gaze)) * 9.0;
    vec4 fibre = noise(strand);
    float strands = 0.55 * fibre.a + 0.45 * fibre.g;

    if (part == SKIN) {
        albedo *= 1.0 + blotch.x * 2.0 * (speckle.r - 0.5) + 0.12 * (speckle.g - 0.5);
        float cheek = exp(-pow((side - 0.42) / 0.22, 2.0) - pow((t.y - 6.95) / 0.2, 2.0)) * step(0.9, t.z);
        float nose_tip = exp(-pow(side / 0.16, 2.0) - pow((t.y - 6.95) / 0.13, 2.0)) * step(1.3, t.z);
        albedo *= mix(vec3(1.0), vec3(1.05, 0.78, 0.74), clamp((cheek + nose_tip) * blotch.y * 3.0, 0.0, 1.0));
        albedo *= 1.0 - blotch.w * speckle.b * 0.6 * step(0.8, t.z);
        // stubble and beard
        if (beard.x > 0.0) {
            float jaw = 6.56 + 0.7 * beard.y + 0.55 * smoothstep(0.35, 0.75, side)
                - 0.25 * (1.0 - beard.w) * smoothstep(0.1, 0.4, side);
            float region = smoothstep(0.06, -0.06, t.y - jaw) * smoothstep(6.0, 6.2, t.y + 0.4 * (t.z - 1.2))
                * smoothstep(0.1, 0.45, t.z) * smoothstep(0.82, 0.76, side);
            float lip_top = smoothstep(0.13, 0.06, abs(t.y - 6.74)) * smoothstep(0.36, 0.26, side) * step(1.2, t.z);
            float chin_gap = 1.0 - smoothstep(0.4, 0.28, side) * smoothstep(0.06, 0.0, abs(t.y - 6.62) - 0.1);
            region = max(region * chin_gap, lip_top * beard.z)
                * (1.0 - smoothstep(0.1, 0.4, paint.z)) * (1.0 - paint.w);
            float hairs = 0.6 + 0.8 * (speckle.g - 0.3);
            albedo = mix(albedo, hair_colour * hairs + 0.01, clamp(region * beard.x * (0.6 + 0.5 * hairs), 0.0, 0.96));
            shine *= 1.0 - 0.6 * region * beard.x;
        }
        albedo = mix(albedo, lip_colour * (0.9 + 0.2 * speckle.g), smoothstep(0.15, 0.75, paint.z));
        shine += 0.25 * smoothstep(0.3, 0.8, paint.z);
        // eyebrows: an arc that thins outwards
        float along = clamp((side - 0.10) / 0.50, 0.0, 1.0);
        float middle = 7.53 + brow.y + brow.z * (1.0 - pow(abs(along - 0.62) / 0.62, 2.0));
        float half_height = brow.x * mix(1.0, 0.35, along * along);
        float arc = smoothstep(1.25, 0.55, abs(t.y - middle) / half_height);
        arc *= smoothstep(0.07, 0.16, side) * smoothstep(0.64, 0.5, side) * step(0.7, t.z);
        float brow_hairs = 0.75 + 0.5 * speckle.g;
        albedo = mix(albedo, brow_colour, clamp(arc * brow.w * brow_hairs, 0.0, 0.95));
        // hair of the scalp
        float scalp = smoothstep(-0.03, 0.07, paint.x + (speckle.a - 0.5) * 0.12) * hair.x;
        albedo = mix(albedo, hair_colour * (0.45 + 1.1 * strands), scalp);
        shine = mix(shine, hair.y * (0.3 + 1.2 * strands) * (1.0 - 0.7 * hair.z), scalp);
        wrap = mix(wrap, 0.15, scalp);
        float worn = smoothstep(0.0, 0.02, paint.y);
        albedo = mix(albedo, cloth_colour * (0.9 + 0.2 * speckle.a), worn);
        shine = mix(shine, 0.02, worn);
        // the inside of the mouth is dark and red, darker further back
        float inside = smoothstep(0.3, 0.7, paint.w);
        albedo = mix(albedo, vec3(0.16, 0.03, 0.03) * smoothstep(0.7, 1.5, t.z), inside);
        open = mix(open, 0.5, inside);
    } else if (part == EYE) {
        vec3 direction = eye_axis;
        float angle = acos(clamp(dot(direction, gaze), -1.0, 1.0));
        albedo = mix(vec3(0.80, 0.77, 0.75), vec3(0.75, 0.55, 0.5), smoothstep(0.6, 1.1, angle));
        vec3 iris = iris_colour * (0.7 + 0.8 * fibre.a) * mix(1.25, 0.35, smoothstep(0.30, 0.44, angle));
        albedo = mix(iris, albedo, smoothstep(0.42, 0.47, angle));
        albedo = mix(vec3(0.004), albedo, smoothstep(0.15, 0.19, angle));
        // shadow of the lids, which the ambient occlusion of the average head does not contain
        open = mix(0.95, 0.45, smoothstep(0.05, 0.42, direction.y))
            * mix(1.0, 0.65, smoothstep(0.35, 0.95, abs(direction.x)));
        shine = 1.6; rough = 90.0; wrap = 0.5;
        n = normalize(mix(n, direction, 0.6));
    } else if (part == TEETH) {
        albedo = vec3(0.80, 0.76, 0.66);
        // lips shade the teeth, more so further back
        open = mix(0.08, 0.7, smoothstep(1.15, 1.5, t.z)) * mix(0.1, 1.0, ajar);
        shine = 0.3 * ajar;
        rough = 40.0; wrap = 0.6;
    } else if (part == TONGUE) {
        albedo = vec3(0.42, 0.13, 0.12);
        // dark inside the mouth, lit when it is out
        open = mix(0.03, 0.3, smoothstep(0.75, 1.4, t.z)) + 0.5 * tongue * smoothstep(1.0, 1.4, t.z);
        shine = 0.2;
    } else if (part == LASH) {
        albedo = brow_colour * 0.15;
        shine = 0.0; open = 0.6;
    } else {
        albedo = hair_colour * (0.4 + 1.2 * strands);
        shine = hair.y * (0.3 + 1.2 * strands);
        open = normal_part.w > 0.0 ? mix(0.95, 0.7, local.y) : 0.35;
        if (dot(n, view) < 0.0) n = -n;
        wrap = 0.15;
    }

    float facing = dot(n, key_direction);
    // subsurface scattering: red light spreads further than blue
    vec3 spread = wrap * (part == SKIN ? vec3(1.0, 0.55, 0.4) : vec3(0.6));
    vec3 diffuse = max((vec3(facing) + spread) / (1.0 + spread), 0.0) * key_colour;
    vec3 ambient = mix(ground_colour, sky_colour, 0.5 + 0.5 * n.y);
    float rim = max(dot(n, rim_direction), 0.0) * pow(1.0 - max(dot(n, view), 0.0), 2.0);
    float shade = mix(0.45, 1.0, open);
    vec3 light = diffuse * shade + ambient * open + rim_colour * rim;
    vec3 halfway = normalize(key_direction + view);
    float fresnel = 0.35 + 0.65 * pow(1.0 - max(dot(n, view), 0.0), 4.0);
    vec3 glint = key_colour * shine * pow(max(dot(n, halfway), 0.0), rough) * fresnel * shade
        * smoothstep(-0.1, 0.2, facing);
    colour = vec4(pow(clamp(albedo * light + glint, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
}
"""
