// Runs a job type of Flamenco as its Manager does: `node flamenco.js SCRIPT` reads settings as JSON from stdin and
// prints the job type and the tasks. What the Manager offers to scripts is imitated after its documentation.
"use strict";
const fs = require("fs");
const vm = require("vm");

class Task {
    constructor(name, type) {
        if (!name.trim() || !type.trim()) throw new Error("author.Task(name, type): both are required");
        Object.assign(this, { name, type, commands: [], dependencies: [] });
    }
    addCommand(command) { this.commands.push(command); }
    addDependency(task) { this.dependencies.push(task.name); }
}

// "1-3,7,9-10" and ".." for "-"; chunks are merged again, but two neighbours are written "1,2".
function frameChunker(text, size) {
    if (!String(text).trim()) throw new Error("empty range");
    if (!(size >= 1)) throw new Error("invalid chunk size");
    const frames = new Set();
    for (const part of text.replaceAll("..", "-").split(",")) {
        const ends = part.split("-").map(Number);
        if (ends.length > 2 || ends.some(Number.isNaN)) throw new Error(`invalid range ${part}`);
        for (let frame = ends[0]; frame <= ends[ends.length - 1]; frame++) frames.add(frame);
    }
    const sorted = [...frames].sort((a, b) => a - b);
    const chunks = [];
    for (let start = 0; start < sorted.length; start += size) chunks.push(merged(sorted.slice(start, start + size)));
    return chunks;
}

function merged(frames) {
    const runs = [];
    for (const frame of frames) {
        const run = runs[runs.length - 1];
        if (run && frame === run[1] + 1) run[1] = frame; else runs.push([frame, frame]);
    }
    return runs.map(([a, b]) => a === b ? `${a}` : b === a + 1 ? `${a},${b}` : `${a}-${b}`).join(",");
}

const tasks = [];
const globals = {
    print: () => {},
    author: {
        Task: (name, type) => new Task(name, type),  // Go functions: called with new or without
        Command: (name, parameters) => ({ name, parameters }),
    },
    path: { join: (...parts) => parts.join("/"), basename: p => p.split("/").pop(), dirname: p => p.replace(/\/[^/]*$/, "") },
    frameChunker,
};
const context = vm.createContext(globals);
vm.runInContext(fs.readFileSync(process.argv[2], "utf8"), context);
const type = vm.runInContext("JOB_TYPE", context);
const settings = JSON.parse(fs.readFileSync(0, "utf8"));
for (const setting of type.settings) {
    if (!(setting.key in settings) && "default" in setting) settings[setting.key] = setting.default;
}
context.job = { settings, addTask: task => tasks.push(JSON.parse(JSON.stringify(task))) };  // copied, as in Go
vm.runInContext("compileJob(job)", context);
console.log(JSON.stringify({ type, tasks }));
