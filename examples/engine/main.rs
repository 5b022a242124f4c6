//! A frame of an engine that has its own device, buffers and encoder. lowbit's layers run next to
//! a pass of the engine: Y = X + gelu(X·W₁ᵀ + b)·W₂ᵀ, with int4 weights and int8 activations. It
//! takes one encoder, one submission and one read-back. `cargo run --release --example engine`

mod parts;

use lowbit::ops::{Activations, DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec, Output};
use lowbit::ops::{QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec};
use lowbit::{format::ActivationFunction, gpu::Caps, gpu::Kernels, ops, wgpu};
use parts::{BETWEEN, Data, Judged, SCALE, TOKEN, buffer, residual, upload, words};
use std::error::Error;

const M: u32 = 24;
const K: u32 = 256;
const INNER: u32 = 768;

pub fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(frame())
}

async fn frame() -> Result<(), Box<dyn Error>> {
    let adapter = wgpu::Instance::default().request_adapter(&Default::default()).await?;
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & Caps::useful_features(),
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = adapter.request_device(&descriptor).await?;
    let caps = Caps::new(&adapter.get_info(), &device.limits(), device.features());
    // Create one `Kernels` per device. The engine's device-lost callback must set its `lost_flag`.
    let kernels = Kernels::new(&device, &caps).await?;

    // Once per model: load the weights into memory and compile the kernels.
    let data = Data::new(M, K, INNER)?;
    let w1 = DeviceWeights::upload(&kernels, &data.w1).await?;
    let w2 = DeviceWeights::upload(&kernels, &data.w2).await?;
    let quantize =
        QuantizeActivationsPlan::new(&kernels, &QuantizeActivationsSpec::new(M, K, TOKEN)).await?;
    let spec = MatmulSpec::of(M, &w1).with_activations(Activations::Int8(TOKEN)).with_bias();
    let spec = spec.with_function(ActivationFunction::Gelu).with_output(Output::Int8(BETWEEN));
    let up = MatmulPlan::new(&kernels, &spec, ops::Select::Auto).await?;
    let spec = MatmulSpec::of(M, &w2).with_activations(Activations::Int8(BETWEEN));
    let down = MatmulPlan::new(&kernels, &spec, ops::Select::Auto).await?;

    // Once per set of buffers, which belong to the engine: check them and create bind groups.
    let sizes = [quantize.output_bytes(M), up.spec().y_bytes(M), down.spec().y_bytes(M)];
    let (x, bias) = (upload(&device, &data.x), upload(&device, &data.bias));
    let [codes, inner, y] = sizes.map(|size| buffer(&device, size, false));
    let readback = buffer(&device, sizes.iter().sum(), true);
    let [x_at, codes_at, inner_at, y_at] = [&x, &codes, &inner, &y].map(ops::SubBuffer::from);
    let args = QuantizeActivationsArgs { activations: x_at, given: None, output: codes_at };
    let quantize = quantize.bind(args).await?;
    let bias = Some(ops::SubBuffer::from(&bias));
    let args = MatmulArgs { activations: codes_at, weights: &w1, bias, output: inner_at };
    let up = up.bind_scaled(args, SCALE).await?;
    let args = MatmulArgs { activations: inner_at, weights: &w2, bias: None, output: y_at };
    let down = down.bind(args).await?;
    let (add, add_group) = residual(&device, &x, &y);

    // Every frame: nothing here allocates, compiles or waits, and m may be any number up to M.
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    quantize.record(&mut pass, M)?;
    up.record(&mut pass, M)?;
    down.record(&mut pass, M)?;
    pass.set_pipeline(&add);
    pass.set_bind_group(0, &add_group, &[]);
    pass.dispatch_workgroups((M * K).div_ceil(64), 1, 1);
    drop(pass);
    let mut at = 0;
    for (from, size) in [&codes, &inner, &y].into_iter().zip(sizes) {
        encoder.copy_buffer_to_buffer(from, 0, &readback, at, size);
        at += size;
    }
    queue.submit([encoder.finish()]);
    let judged = Judged::of(&data, &words(&device, &readback)?, sizes, [&up, &down])?;
    println!("{}\n{judged}", adapter.get_info().name);
    Ok(())
}
