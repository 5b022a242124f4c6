// Tint behind WebGPU's interface, with no GPU: for every line of standard input, a shader with its
// bindings, one line of what is wrong with it. Empty where nothing is.
// usage: node tint.mjs MODULE    (MODULE: index.js of npm's webgpu)
import { createInterface } from 'node:readline';

const { create, globals } = await import(process.argv[2]);
Object.assign(globalThis, globals);
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({
    requiredFeatures: [...adapter.features],
    requiredLimits: {
        maxStorageBuffersPerShaderStage: adapter.limits.maxStorageBuffersPerShaderStage,
        maxComputeWorkgroupStorageSize: adapter.limits.maxComputeWorkgroupStorageSize,
        maxComputeInvocationsPerWorkgroup: adapter.limits.maxComputeInvocationsPerWorkgroup,
        maxComputeWorkgroupSizeX: adapter.limits.maxComputeWorkgroupSizeX,
    },
});

const entry = ({ binding, kind, min_size }) => {
    const visibility = GPUShaderStage.COMPUTE;
    const buffer = (type) => ({ binding, visibility, buffer: { type, minBindingSize: min_size } });
    switch (kind) {
        case 'uniform': return buffer('uniform');
        case 'read-storage': return buffer('read-only-storage');
        case 'storage': return buffer('storage');
        case 'read-texture': return {
            binding, visibility, storageTexture: { access: 'read-only', format: 'rgba32uint' },
        };
        default: throw new Error(`no kind ${kind}`);
    }
};

async function check({ code, entry_point, bindings }) {
    device.pushErrorScope('validation');
    device.pushErrorScope('internal');
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const wrong = messages.filter(({ type }) => type === 'error')
        .map(({ lineNum, linePos, message }) => `${lineNum}:${linePos} ${message}`);
    if (wrong.length === 0) {
        const entries = bindings.map(entry);
        const group = device.createBindGroupLayout({ entries });
        const layout = device.createPipelineLayout({ bindGroupLayouts: [group] });
        device.createComputePipeline({ layout, compute: { module, entryPoint: entry_point } });
    }
    for (const error of [await device.popErrorScope(), await device.popErrorScope()]) {
        if (error && wrong.length === 0) wrong.push(error.message);
    }
    return wrong.join('; ');
}

console.log(JSON.stringify([...adapter.features].sort()));
for await (const line of createInterface({ input: process.stdin })) {
    const wrong = await check(JSON.parse(line)).catch((error) => String(error));
    console.log(JSON.stringify(wrong));
}
// The null backend's threads would keep the process.
process.exit(0);
