//! Creates buffers, submits work, waits for it and reads results back.

use super::{Host, HostError, Instant, answer, with_blocking};
use crate::gpu::{BufferFill, DeviceError};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

impl Host {
    with_blocking!(
        storage,
        /// Creates a storage buffer that holds `words`.
        ///
        /// # Errors
        /// Returns [`HostError::Device`] if the device refuses the buffer.
        pub async fn storage_async(&self, words: &[u32]) -> Result<wgpu::Buffer, HostError> {
            self.run(self.kernels.buffer("lowbit host", USAGE, BufferFill::Words(words))).await
        }
    );

    /// Creates a buffer that holds `values`, if there are any.
    pub(crate) async fn optional(
        &self,
        values: Option<&[f32]>,
    ) -> Result<Option<wgpu::Buffer>, HostError> {
        match values {
            Some(values) => self.storage_async(bytemuck::cast_slice(values)).await.map(Some),
            None => Ok(None),
        }
    }

    with_blocking!(
        zeros,
        /// Creates a storage buffer of zeros.
        ///
        /// # Errors
        /// Returns [`HostError::Device`] if the device refuses the buffer.
        pub async fn zeros_async(&self, bytes: u64) -> Result<wgpu::Buffer, HostError> {
            let bytes = bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX);
            self.run(self.kernels.buffer("lowbit host", USAGE, BufferFill::Zeros(bytes))).await
        }
    );

    with_blocking!(
        submit,
        /// Records one compute pass, submits it and waits for it.
        ///
        /// # Errors
        /// Returns [`HostError::Device`] if the device refuses a request, and
        /// [`HostError::Timeout`] if it does not finish in time.
        pub async fn submit_async(
            &self,
            record: impl FnOnce(&mut wgpu::ComputePass<'_>),
        ) -> Result<(), HostError> {
            let device = self.device();
            let what = "a submission";
            let index = self
                .run(self.kernels.guarded(what, || {
                    let mut encoder = device.create_command_encoder(&Default::default());
                    record(&mut encoder.begin_compute_pass(&Default::default()));
                    self.queue.submit([encoder.finish()])
                }))
                .await?;
            self.wait(what, index).await
        }
    );

    with_blocking!(
        submit_timed,
        /// Records one compute pass, submits it, waits for it, and returns the milliseconds that
        /// the pass took according to the device. Returns `None` if the device has no timestamps.
        ///
        /// # Errors
        /// Returns the errors of [`submit_async`](Self::submit_async), and [`HostError::ReadBack`]
        /// if the timestamps cannot be read.
        pub async fn submit_timed_async(
            &self,
            record: impl FnOnce(&mut wgpu::ComputePass<'_>),
        ) -> Result<Option<f64>, HostError> {
            let device = self.device();
            if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
                self.submit_async(record).await?;
                return Ok(None);
            }
            let what = "a timed submission";
            let (index, ticks) = self
                .run(self.kernels.guarded(what, || {
                    let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                        label: Some("lowbit time"),
                        ty: wgpu::QueryType::Timestamp,
                        count: 2,
                    });
                    let ticks = device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("lowbit time"),
                        size: 16,
                        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                        mapped_at_creation: false,
                    });
                    let mut encoder = device.create_command_encoder(&Default::default());
                    let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(0),
                        end_of_pass_write_index: Some(1),
                    });
                    let pass = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                    record(&mut encoder.begin_compute_pass(&pass));
                    encoder.resolve_query_set(&queries, 0..2, &ticks, 0);
                    (self.queue.submit([encoder.finish()]), ticks)
                }))
                .await?;
            self.wait(what, index).await?;
            let words = self.read_async(&ticks, 0, 4).await?;
            let tick = |i: usize| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32;
            let period = f64::from(self.queue.get_timestamp_period());
            Ok(Some(tick(1).saturating_sub(tick(0)) as f64 * period / 1e6))
        }
    );

    /// Measures a submission from the start of recording to the end of waiting.
    pub(super) async fn timed(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<Duration, HostError> {
        let start = Instant::now();
        self.submit_async(record).await?;
        Ok(start.elapsed())
    }

    /// Awaits `make`, which creates device objects. Its errors become [`DeviceError::Lost`] if the
    /// device is lost.
    pub(super) async fn run<T, E: Into<HostError>>(
        &self,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, HostError> {
        self.check()?;
        make.await.map_err(|error| {
            let error = error.into();
            // A device that is destroyed while it works refuses requests, and only reports its
            // loss once it is idle.
            #[cfg(not(target_arch = "wasm32"))]
            if error.is_the_devices() {
                let timeout = Some(self.timeout);
                let _ = self.poll(wgpu::PollType::Wait { submission_index: None, timeout });
            }
            self.check().err().unwrap_or(error)
        })
    }

    /// Returns an error if the device is lost. It polls, because a destroyed device reports its
    /// loss only then.
    pub(super) fn check(&self) -> Result<(), HostError> {
        let _ = self.poll(wgpu::PollType::Poll)?;
        Ok(())
    }

    pub(super) fn poll(
        &self,
        poll: wgpu::PollType,
    ) -> Result<Result<wgpu::PollStatus, wgpu::PollError>, HostError> {
        // wgpu 30 panics if the driver loses the device during a poll. At that point it has
        // called the lost callback and holds no lock.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device().poll(poll)));
        match self.kernels.lost_flag().reason() {
            Some(reason) => Err(DeviceError::Lost(reason.into()).into()),
            None => Ok(polled.unwrap_or_else(|panic| resume_unwind(panic))),
        }
    }

    /// Waits for all submissions. The browser's watchdog ends those that take too long.
    #[cfg(target_arch = "wasm32")]
    pub(super) async fn wait(
        &self,
        _: &'static str,
        _: wgpu::SubmissionIndex,
    ) -> Result<(), HostError> {
        let (done, answer) = answer::channel();
        self.queue.on_submitted_work_done(move || done.send(()));
        // The callback is dropped without a call if the device is lost.
        let answered = answer.wait(self.timeout).await;
        self.check()?;
        answered.ok_or_else(|| HostError::ReadBack("a submission was never answered".into()))
    }

    /// Waits for a submission.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) async fn wait(
        &self,
        what: &'static str,
        index: wgpu::SubmissionIndex,
    ) -> Result<(), HostError> {
        let timeout = Some(self.timeout);
        let poll = wgpu::PollType::Wait { submission_index: Some(index), timeout };
        let start = Instant::now();
        let polled = self.poll(poll);
        // If the device was lost while waiting, that explains any other error.
        self.check()?;
        match polled? {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => {
                Err(HostError::Timeout { what, waited: start.elapsed() })
            }
            Err(error) => Err(HostError::ReadBack(error.to_string())),
        }
    }

    /// Copies the first `words` words of a texture of codes back.
    pub(super) async fn read_texture(
        &self,
        texture: &wgpu::Texture,
        words: usize,
    ) -> Result<Vec<u32>, HostError> {
        let (width, height) = (texture.width(), texture.height());
        let buffer = self.zeros_async(u64::from(width) * u64::from(height) * 16).await?;
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(width * 16),
            rows_per_image: None,
        };
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        let what = "a copy out of a texture";
        let index = self
            .run(self.kernels.guarded(what, || {
                let mut encoder = self.device().create_command_encoder(&Default::default());
                encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
                self.queue.submit([encoder.finish()])
            }))
            .await?;
        self.wait(what, index).await?;
        self.read_async(&buffer, 0, words).await
    }

    with_blocking!(
        read,
        /// Copies `words` words back from a buffer with `COPY_SRC` usage, starting at word `first`.
        ///
        /// # Errors
        /// Returns [`HostError::ReadBack`], [`HostError::Timeout`] or [`HostError::Device`] if the
        /// copy fails.
        pub async fn read_async(
            &self,
            buffer: &wgpu::Buffer,
            first: usize,
            words: usize,
        ) -> Result<Vec<u32>, HostError> {
            if words == 0 {
                return Ok(Vec::new());
            }
            let limit = usize::MAX / 4;
            for (what, value) in [("words", words), ("first word", first)] {
                if value > limit {
                    return Err(HostError::TooLarge { what, value, limit });
                }
            }
            let bytes = 4 * words as u64;
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let staging = self
                .run(self.kernels.buffer("lowbit read back", usage, BufferFill::Zeros(bytes)))
                .await?;
            let device = self.device();
            let what = "a read back";
            let (mapped, answer) = answer::channel();
            let index = self
                .run(self.kernels.guarded(what, || {
                    let mut encoder = device.create_command_encoder(&Default::default());
                    encoder.copy_buffer_to_buffer(buffer, 4 * first as u64, &staging, 0, bytes);
                    let index = self.queue.submit([encoder.finish()]);
                    staging
                        .map_async(wgpu::MapMode::Read, ..bytes, move |result| mapped.send(result));
                    index
                }))
                .await?;
            self.wait(what, index).await?;
            self.mapped(&staging, bytes, answer).await
        }
    );

    /// Returns a checksum of all words that were read back since the last call, or `None` in the
    /// first call. Two runs have equal checksums if all their results have the same bits. The reads
    /// of several threads enter one checksum.
    #[doc(hidden)]
    pub fn restart_read_checksum(&self) -> Option<u64> {
        self.reads.restart()
    }
}
