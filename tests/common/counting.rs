//! Counting what a recording allocates, for `tests/recording.rs` and `benches/recording.rs`.

use crate::common::{Noop, random_weights};
use lowbit::ops::matmul::{BoundMatmul, KernelChoice};
use lowbit::ops::{DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec, Schedule, Select, SubBuffer};
use pollster::block_on;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Threads that are ending have no counter any more, and nothing here runs on them.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `record` runs, in a fresh pass.
pub fn allocations(noop: &Noop, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> usize {
    let mut encoder = noop.device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    let before = COUNT.with(Cell::get);
    record(&mut pass);
    let count = COUNT.with(Cell::get) - before;
    drop(pass);
    noop.queue.submit([encoder.finish()]);
    noop.assert_quiet();
    count
}

/// A pipeline of the same layout and a bind group, made with wgpu alone.
pub struct Bare {
    pub pipeline: wgpu::ComputePipeline,
    pub group: wgpu::BindGroup,
}

pub fn bare(noop: &Noop, choice: &KernelChoice) -> Bare {
    let module = noop.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(choice.shader().compose().unwrap().source.into()),
    });
    let entry = |binding: u32| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                0..=2 => wgpu::BufferBindingType::Uniform,
                _ => wgpu::BufferBindingType::Storage { read_only: binding != 7 },
            },
            has_dynamic_offset: binding == 1 || binding == 2,
            min_binding_size: None,
        },
        count: None,
    };
    let bindings = [0, 1, 2, 3, 4, 5, 7];
    let layout = noop.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &bindings.map(entry),
    });
    let pipeline_layout = noop.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = noop.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let uniform = noop.buffer_for(1024, wgpu::BufferUsages::UNIFORM);
    let (input, output) = (noop.buffer(1024), noop.buffer(1024));
    let entries = bindings.map(|binding| {
        let buffer = match binding {
            0..=2 => &uniform,
            7 => &output,
            _ => &input,
        };
        let size = wgpu::BufferSize::new(256);
        let resource =
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
        wgpu::BindGroupEntry { binding, resource }
    });
    let group = noop.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &layout,
        entries: &entries,
    });
    noop.assert_quiet();
    Bare { pipeline, group }
}

pub fn bound(noop: &Noop, binding: u64) -> BoundMatmul {
    let kernels = noop.kernels_with(|caps| caps.max_binding = binding);
    let packed = random_weights("int4-g64-asym".parse().unwrap(), 300, 200, 1);
    let weights = block_on(DeviceWeights::upload(&kernels, &packed)).unwrap();
    let spec = MatmulSpec::new(70, 300, 200, packed.format());
    let schedule = Schedule::Rows { m_tile: 4, n_tile: 2 };
    let plan = block_on(MatmulPlan::new(&kernels, &spec, Select::Pinned(schedule))).unwrap();
    let (x, y) = (noop.buffer(spec.x_bytes(70)), noop.buffer(spec.y_bytes(70)));
    block_on(plan.bind(MatmulArgs {
        activations: SubBuffer { buffer: &x, offset: 0 },
        weights: &weights,
        bias: None,
        output: (&y).into(),
    }))
    .unwrap()
}

/// What [`BoundMatmul::record`] sets, by hand.
pub fn by_hand(pass: &mut wgpu::ComputePass<'_>, bare: &Bare, dispatches: usize) {
    pass.set_pipeline(&bare.pipeline);
    for _ in 0..dispatches {
        pass.set_bind_group(0, &bare.group, &[0, 0]);
        pass.dispatch_workgroups(1, 1, 1);
    }
}
