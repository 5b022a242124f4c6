//! Reads results back without allocating: for callers that do it again and again.

use super::{Host, HostError, answer, with_blocking};
use crate::gpu::BufferFill;

/// Memory that results are copied to and read from, made once by [`Host::read_back`].
#[derive(Debug)]
pub struct ReadBack {
    staging: wgpu::Buffer,
    words: usize,
}

impl ReadBack {
    /// Returns the number of words that there is room for.
    pub fn words(&self) -> usize {
        self.words
    }
}

impl Host {
    with_blocking!(
        read_back,
        /// Creates memory for reading back up to `words` words at once.
        ///
        /// # Errors
        /// Returns [`HostError::Device`] if the device refuses the buffer.
        pub async fn read_back_async(&self, words: usize) -> Result<ReadBack, HostError> {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let limit = usize::MAX / 4;
            if words > limit {
                return Err(HostError::TooLarge { what: "words", value: words, limit });
            }
            let bytes = BufferFill::Zeros(4 * words.max(1) as u64);
            let staging = self.run(self.kernels.buffer("lowbit read back", usage, bytes)).await?;
            Ok(ReadBack { staging, words })
        }
    );

    with_blocking!(
        submit_and_read,
        /// Records commands with `record`, copies the first `words` words of `from` after them, and
        /// submits both as one. Returns the words once the device has finished. Nothing is allocated
        /// on the device.
        ///
        /// # Errors
        /// Returns [`HostError::TooLarge`] if `into` has no room for so many words, and otherwise the
        /// errors of [`submit_async`](Self::submit_async) and [`read_async`](Self::read_async).
        pub async fn submit_and_read_async(
            &self,
            record: impl FnOnce(&mut wgpu::CommandEncoder),
            from: &wgpu::Buffer,
            words: usize,
            into: &ReadBack,
        ) -> Result<Vec<u32>, HostError> {
            if words > into.words {
                let (what, limit) = ("words", into.words);
                return Err(HostError::TooLarge { what, value: words, limit });
            }
            let (device, bytes, what) = (self.device(), 4 * words as u64, "a step");
            let staging = &into.staging;
            let (mapped, answer) = answer::channel();
            let index = self
                .run(self.kernels.guarded(what, || {
                    let mut encoder = device.create_command_encoder(&Default::default());
                    record(&mut encoder);
                    if words > 0 {
                        encoder.copy_buffer_to_buffer(from, 0, staging, 0, bytes);
                    }
                    let index = self.queue.submit([encoder.finish()]);
                    if words > 0 {
                        let done = move |result| mapped.send(result);
                        staging.map_async(wgpu::MapMode::Read, ..bytes, done);
                    }
                    index
                }))
                .await?;
            self.wait(what, index).await?;
            if words == 0 {
                return Ok(Vec::new());
            }
            self.mapped(staging, bytes, answer).await
        }
    );

    /// Returns the words of a buffer whose mapping was asked for, and unmaps it.
    pub(super) async fn mapped(
        &self,
        staging: &wgpu::Buffer,
        bytes: u64,
        answer: answer::Answer<Result<(), wgpu::BufferAsyncError>>,
    ) -> Result<Vec<u32>, HostError> {
        // Another thread's poll may have taken this callback without having called it yet.
        match answer.wait(self.timeout).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                // A browser gives this answer if the device was lost.
                self.check()?;
                return Err(HostError::ReadBack(error.to_string()));
            }
            None => return Err(HostError::Timeout { what: "a mapping", waited: self.timeout }),
        }
        let words: Vec<u32> = {
            let view = staging
                .get_mapped_range(..bytes)
                .map_err(|error| HostError::ReadBack(error.to_string()))?;
            // A cast is not possible, because the view may be unaligned.
            let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            view.chunks_exact(4).map(word).collect()
        };
        staging.unmap();
        self.reads.add(&words);
        Ok(words)
    }
}
