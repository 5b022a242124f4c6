//! How a callback's answer comes to who waits for it: on a browser's thread by a future,
//! elsewhere by a channel that blocks.

use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc::{Receiver, Sender, channel as new};

#[cfg(target_arch = "wasm32")]
use futures_channel::oneshot::{Receiver, Sender, channel as new};

/// For the callback.
pub(super) struct Promise<T>(Sender<T>);

/// For who waits.
pub(super) struct Answer<T>(Receiver<T>);

pub(super) fn channel<T>() -> (Promise<T>, Answer<T>) {
    let (send, receive) = new();
    (Promise(send), Answer(receive))
}

impl<T> Promise<T> {
    /// Nobody may be waiting any more after an early error.
    pub fn send(self, answer: T) {
        drop(self.0.send(answer));
    }
}

impl<T> Answer<T> {
    /// `None` where the time is over, which a browser does not measure, or the callback was
    /// dropped.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn wait(self, timeout: Duration) -> Option<T> {
        self.0.recv_timeout(timeout).ok()
    }

    #[cfg(target_arch = "wasm32")]
    pub async fn wait(self, _: Duration) -> Option<T> {
        self.0.await.ok()
    }
}
