// SPDX-License-Identifier: GPL-3.0-or-later

// A job type for Blender's render farm Flamenco: renders a face of EDTalk in chunks, then encodes it with its sound.
// Copy this file into the folder `scripts` beside the flamenco-manager. In flamenco-manager.yaml the variables
// `edtalk_python` and `edtalk` give, for each platform, the engine's Python and the folder of the extension.

const JOB_TYPE = {
    label: "EDTalk Face",
    description: "Render the missing frames of a shot, and encode all frames with the sound",
    settings: [
        // Settings for the artist.
        { key: "bundle", type: "string", subtype: "dir_path", required: true, visible: "visible",
          description: "Folder written by Export Farm Job. All workers need access to it" },
        { key: "frames", type: "string", required: true, visible: "visible",
          eval: "f'{C.scene.frame_start}-{C.scene.frame_end}'",
          evalInfo: { showLinkButton: true, description: "Scene frame range" },
          description: "Frames to render, in scene frame numbers. Examples: '47', '1-30', '3, 5-10'" },
        { key: "chunk_size", type: "int32", default: 50, propargs: { min: 1 }, visible: "submission",
          description: "Frames per task. Each task starts the engine once, so small tasks are slow" },
        { key: "clip", type: "string", default: "face.mp4", visible: "submission",
          description: "File name of the video, written when all frames are rendered. Leave empty for none" },
        { key: "device", type: "string", default: "auto", choices: ["auto", "cuda", "mps", "cpu"],
          visible: "submission", description: "Device for rendering" },

        // Settings for the farm's administrator, given here or as variables of the Manager.
        { key: "engine", type: "string", default: "{edtalk_python}", visible: "web",
          description: "The Python that runs the engine on the workers" },
        { key: "engine_folder", type: "string", default: "{edtalk}", visible: "web",
          description: "The extension's folder on the workers" },
        { key: "task_type", type: "string", default: "misc", visible: "web",
          description: "Task type: only workers that are configured for it render the frames" },
    ]
};

function compileJob(job) {
    const settings = job.settings;
    const frames = path.join(settings.bundle, "output", "frames");

    const renders = frameChunker(settings.frames, settings.chunk_size).map(chunk =>
        engineTask(settings, `render-${chunk}`, [
            "render", path.join(settings.bundle, "shot"), "--frames-folder", frames,
            `--frames=${chunk}`, "--device", settings.device, "--progress", "lines",
        ]));
    renders.forEach(task => job.addTask(task));
    if (!settings.clip) {
        return;
    }
    const encode = engineTask(settings, "encode", [
        "encode", path.join(settings.bundle, "shot"), "--frames-folder", frames,
        "--out", path.join(settings.bundle, "output", settings.clip), "--overwrite", "--progress", "lines",
    ]);
    renders.forEach(task => encode.addDependency(task));
    job.addTask(encode);
}

function engineTask(settings, name, words) {
    const task = author.Task(name, settings.task_type);
    task.addCommand(author.Command("exec", {
        exe: settings.engine,
        args: ["-X", "utf8", path.join(settings.engine_folder, "inference"), "shot"].concat(words),
    }));
    return task;
}
