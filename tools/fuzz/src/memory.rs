//! What a thread allocates, so that "in proportion to the input" is a number that is checked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// No allocation of a reader may be larger, whatever it reads: more counts as a crash.
const LARGEST: usize = 1 << 31;

struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: isize) {
    // Threads that are ending have no counters any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged, or fails as allocators may.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST {
            return std::ptr::null_mut();
        }
        add(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST {
            return std::ptr::null_mut();
        }
        add(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > LARGEST {
            return std::ptr::null_mut();
        }
        // Both may be there at once.
        add(size as isize);
        let new = unsafe { System.realloc(at, layout, size) };
        add(-(layout.size() as isize));
        new
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A result, and the most bytes that its thread held at once beyond those it held before.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let start = NOW.with(Cell::get);
    PEAK.with(|peak| peak.set(start));
    let result = run();
    (result, usize::try_from(PEAK.with(Cell::get) - start).unwrap_or(0))
}

/// Runs a reader of `len` bytes, which may hold `factor` bytes for each of them and 64 KiB.
///
/// # Panics
/// Where it held more.
pub fn within<T>(factor: usize, len: usize, run: impl FnOnce() -> T) -> T {
    let (result, peak) = peak(run);
    let most = factor * len + (64 << 10);
    assert!(peak <= most, "{len} bytes of input made {peak} bytes of memory, {most} at most");
    result
}
