//! A graph with its buffers: what a step records.

use super::bind::{Binder, Step};
use super::graph::{Rows, Tensor};
use super::layers::{Built, Size};
use super::{Model, RunError};
use lowbit::ops::{FloatType, Select};
use lowbit::wgpu;
use std::ops::Range;

/// The bound ops of a graph, and the buffers of its tensors.
#[derive(Debug)]
pub(super) struct Runner {
    pub built: Built,
    /// From tokens to the last residual.
    pub body: Vec<Step>,
    /// From rows of the last residual to logits.
    pub head: Vec<Step>,
    /// From logits to the largest, and to one that is drawn.
    samplers: Vec<Step>,
    buffers: Vec<Option<wgpu::Buffer>>,
    /// Bytes of a row of the last residual.
    row_bytes: u64,
    /// Bytes of the caches.
    pub cache_bytes: u64,
    /// Bytes of all other buffers.
    pub activation_bytes: u64,
}

impl Runner {
    /// Allocates the buffers of a graph, compiles all kernels and binds all ops.
    pub async fn new(model: &Model, built: Built, size: Size) -> Result<Self, RunError> {
        let host = &*model.host;
        let arena = built.body.arena();
        let mut memory = Vec::with_capacity(arena.buffers.len());
        for &bytes in &arena.buffers {
            memory.push(host.zeros_async(bytes).await?);
        }
        let buffers: Vec<Option<wgpu::Buffer>> =
            arena.of.iter().map(|of| of.and_then(|index| memory.get(index).cloned())).collect();
        let mut tables = Vec::with_capacity(model.weights.rotations.len());
        let mut table_bytes = 0;
        for (_, table) in &model.weights.rotations {
            let pairs = table.pairs(size.slots as usize)?;
            let buffer = host.storage_async(bytemuck::cast_slice(&pairs)).await?;
            table_bytes += buffer.size();
            tables.push(buffer);
        }
        let binder = Binder {
            kernels: host.kernels(),
            store: &model.weights.store,
            tables: &tables,
            graph: &built.body,
            buffers: &buffers,
            select: &Select::Auto,
        };
        let mut body = binder.steps().await?;
        let mut head = body.split_off(body.len() - built.head_ops);
        let samplers = head.split_off(head.len().saturating_sub(2));
        let row_bytes = built.body.shapes[built.last.0].row_bytes();
        let cache_bytes = built.cache_bytes();
        let activation_bytes = built.activation_bytes() + table_bytes;
        Ok(Self { built, body, head, samplers, buffers, row_bytes, cache_bytes, activation_bytes })
    }

    /// Returns the bytes of a row of the last residual.
    pub fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Returns the numbers of rows of the last residual that were read back, without the padding of
    /// rows.
    pub fn floats(&self, words: &[u32]) -> Vec<f32> {
        let shape = &self.built.body.shapes[self.built.last.0];
        let columns = shape.columns as usize;
        let rows = words.chunks_exact((self.row_bytes / 4).max(1) as usize);
        match shape.stored {
            Rows::Float(FloatType::F16) => {
                let half = |word: u32, high: bool| {
                    half::f16::from_bits((word >> (16 * u32::from(high))) as u16).to_f32()
                };
                let row = |row: &[u32]| -> Vec<f32> {
                    (0..columns).map(|at| half(row[at / 2], at % 2 == 1)).collect()
                };
                rows.flat_map(row).collect()
            }
            _ => rows
                .flat_map(|row| row[..columns].iter().map(|&word| f32::from_bits(word)))
                .collect(),
        }
    }

    /// Returns the buffer of a tensor.
    pub fn buffer(&self, tensor: Tensor) -> Result<&wgpu::Buffer, RunError> {
        let missing = || RunError::Options("a tensor has no buffer".into());
        self.buffers[tensor.0].as_ref().ok_or_else(missing)
    }

    /// Writes the first words of a tensor.
    pub fn write(&self, model: &Model, tensor: Tensor, words: &[u32]) -> Result<(), RunError> {
        let buffer = self.buffer(tensor)?;
        model.host.queue().write_buffer(buffer, 0, bytemuck::cast_slice(words));
        Ok(())
    }

    /// Records a step of `rows` rows.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, rows: u32) -> Result<(), RunError> {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for step in &self.body {
            step.record(&mut pass, rows)?;
        }
        Ok(())
    }

    /// Returns the step that makes a choice.
    pub fn sampler(&self, draw: Draw) -> Option<&Step> {
        match draw {
            Draw::Nothing => None,
            Draw::Largest => self.samplers.first(),
            Draw::Random => self.samplers.last(),
        }
    }

    /// Records the logits of rows of the last step, and then, if that is asked for, the choice of a token of
    /// each, which take the first places of the tokens of the next step.
    pub fn record_head(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        wanted: &Range<u32>,
        draw: Draw,
    ) -> Result<(), RunError> {
        let (Some(input), false) = (self.built.head_input, wanted.is_empty()) else {
            return Ok(());
        };
        let (from, to) = (self.buffer(self.built.last)?, self.buffer(input)?);
        let bytes = wanted.len() as u64 * self.row_bytes;
        let start = u64::from(wanted.start) * self.row_bytes;
        encoder.copy_buffer_to_buffer(from, start, to, 0, bytes);
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for step in self.head.iter().chain(self.sampler(draw)) {
            step.record(&mut pass, wanted.len() as u32)?;
        }
        Ok(())
    }
}

/// The choice that is made from logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    Nothing,
    Largest,
    Random,
}

impl Built {
    /// Returns the bytes of the caches.
    pub fn cache_bytes(&self) -> u64 {
        let tensors = self.caches.iter().flat_map(|cache| [cache.keys, cache.values]);
        tensors.map(|tensor| self.body.shapes[tensor.0].bytes()).sum()
    }

    /// Returns the bytes of everything but the caches.
    pub fn activation_bytes(&self) -> u64 {
        let all: u64 = self.body.arena().buffers.iter().sum();
        all.saturating_sub(self.cache_bytes())
    }
}
