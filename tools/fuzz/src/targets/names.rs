//! Names of formats, schedules, methods and kernels, as people and files write them: what is accepted is
//! printed as it is read.

use lowbit::compress::calibrate::Method;
use lowbit::format::{ActivationFormat, WeightFormat};
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::ops::{Activations, KernelChoice, Schedule};
use std::fmt::{Debug, Display};
use std::str::FromStr;

fn again<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => {
            let name = value.to_string();
            let read = name.parse::<T>();
            assert_eq!(read.as_ref().ok(), Some(&value), "`{text}` is printed as `{name}`");
            Some(value)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(format) = again::<WeightFormat>(text) {
        assert!(format.check().is_ok(), "{format}");
        let _ = format.geometry(1 << 20, 1 << 20);
    }
    if let Some(format) = again::<ActivationFormat>(text) {
        let _ = format.layout(usize::MAX);
        let _ = format.layout(4096);
    }
    if let Ok(choice) = text.parse::<KernelChoice>() {
        assert_eq!(choice.name(), text);
        assert_eq!(choice.shader().id, text);
    }
    again::<Activations>(text);
    again::<Method>(text);
    if let Some(schedule) = again::<Schedule>(text) {
        for class in [AdapterClass::Gpu, AdapterClass::Cpu] {
            let caps = Caps::from_limits(class, &wgpu::Limits::downlevel_defaults());
            if schedule.check(&caps).is_ok() {
                assert!(schedule.workgroup() <= caps.max_invocations);
                assert!(schedule.workgroup_memory() <= caps.max_workgroup_memory);
            }
        }
    }
}
