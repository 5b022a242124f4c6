//! What is recorded passes to the real encoder and the real pass.

use super::*;

impl Encoder {
    fn with<T>(&self, record: impl FnOnce(&mut wgpu::CommandEncoder) -> T) -> T {
        record(self.0.lock().unwrap().as_mut().expect("an encoder that is not finished"))
    }
}

impl CommandEncoderInterface for Encoder {
    fn copy_buffer_to_buffer(
        &self,
        source: &DispatchBuffer,
        source_offset: u64,
        destination: &DispatchBuffer,
        destination_offset: u64,
        size: Option<u64>,
    ) {
        let buffer = |buffer: &DispatchBuffer| {
            buffer.as_custom::<ShimBuffer>().expect("of this device").real().clone()
        };
        let (source, destination) = (buffer(source), buffer(destination));
        self.with(|encoder| {
            encoder.copy_buffer_to_buffer(
                &source,
                source_offset,
                &destination,
                destination_offset,
                size,
            );
        });
    }

    fn copy_buffer_to_texture(
        &self,
        _: wgpu::TexelCopyBufferInfo<'_>,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        absent("textures")
    }

    fn copy_texture_to_buffer(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::TexelCopyBufferInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        absent("textures")
    }

    fn copy_texture_to_texture(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        absent("textures")
    }

    fn begin_compute_pass(&self, desc: &wgpu::ComputePassDescriptor<'_>) -> DispatchComputePass {
        assert!(desc.timestamp_writes.is_none(), "the shim has no timestamps");
        let desc = wgpu::ComputePassDescriptor { label: desc.label, timestamp_writes: None };
        let pass = self.with(|encoder| encoder.begin_compute_pass(&desc).forget_lifetime());
        DispatchComputePass::custom(Pass(pass))
    }

    fn begin_render_pass(&self, _: &wgpu::RenderPassDescriptor<'_>) -> DispatchRenderPass {
        absent("rendering")
    }

    fn finish(&mut self) -> DispatchCommandBuffer {
        let encoder = self.0.lock().unwrap().take();
        let commands = encoder.map(wgpu::CommandEncoder::finish);
        DispatchCommandBuffer::custom(Commands(Mutex::new(commands)))
    }

    fn clear_texture(&self, _: &DispatchTexture, _: &wgpu::ImageSubresourceRange) {
        absent("textures")
    }

    fn clear_buffer(&self, buffer: &DispatchBuffer, offset: u64, size: Option<u64>) {
        let buffer = buffer.as_custom::<ShimBuffer>().expect("of this device").real();
        self.with(|encoder| encoder.clear_buffer(buffer, offset, size));
    }

    fn insert_debug_marker(&self, _: &str) {}

    fn push_debug_group(&self, _: &str) {}

    fn pop_debug_group(&self) {}

    fn write_timestamp(&self, _: &DispatchQuerySet, _: u32) {
        absent("timestamps")
    }

    fn resolve_query_set(&self, _: &DispatchQuerySet, _: u32, _: u32, _: &DispatchBuffer, _: u64) {
        absent("timestamps")
    }

    fn mark_acceleration_structures_built<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::Blas>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        absent("rays")
    }

    fn build_acceleration_structures<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::BlasBuildEntry<'a>>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        absent("rays")
    }

    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgpu::wgt::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgpu::wgt::TextureTransition<&'a DispatchTexture>>,
    ) {
        absent("transitions")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {}
}

impl ComputePassInterface for Pass {
    fn set_pipeline(&mut self, pipeline: &DispatchComputePipeline) {
        let pipeline = pipeline.as_custom::<Pipeline>().expect("of this device");
        self.0.set_pipeline(&pipeline.0);
    }

    fn set_bind_group(&mut self, index: u32, group: Option<&DispatchBindGroup>, offsets: &[u32]) {
        let group = group.map(|group| &group.as_custom::<Group>().expect("of this device").0);
        self.0.set_bind_group(index, group, offsets);
    }

    fn set_immediates(&mut self, _: u32, _: &[u8]) {
        absent("immediates")
    }

    fn insert_debug_marker(&mut self, _: &str) {}

    fn push_debug_group(&mut self, _: &str) {}

    fn pop_debug_group(&mut self) {}

    fn write_timestamp(&mut self, _: &DispatchQuerySet, _: u32) {
        absent("timestamps")
    }

    fn begin_pipeline_statistics_query(&mut self, _: &DispatchQuerySet, _: u32) {
        absent("queries")
    }

    fn end_pipeline_statistics_query(&mut self) {
        absent("queries")
    }

    fn dispatch_workgroups(&mut self, x: u32, y: u32, z: u32) {
        self.0.dispatch_workgroups(x, y, z);
    }

    fn dispatch_workgroups_indirect(&mut self, _: &DispatchBuffer, _: u64) {
        absent("indirect dispatches")
    }

    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgpu::wgt::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgpu::wgt::TextureTransition<&'a DispatchTextureView>>,
    ) {
        absent("transitions")
    }
}
