//! Passes the answer of a callback to the code that waits for it: through a future in a browser,
//! and through a channel that blocks on other platforms.

use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc::{Receiver, Sender, channel as new};

#[cfg(target_arch = "wasm32")]
use futures_channel::oneshot::{Receiver, Sender, channel as new};

/// The end that the callback holds.
pub(super) struct Promise<T>(Sender<T>);

/// The end that the waiting code holds.
pub(super) struct Answer<T>(Receiver<T>);

pub(super) fn channel<T>() -> (Promise<T>, Answer<T>) {
    let (send, receive) = new();
    (Promise(send), Answer(receive))
}

impl<T> Promise<T> {
    /// Sends the answer. It is dropped if an earlier error ended the wait.
    pub fn send(self, answer: T) {
        drop(self.0.send(answer));
    }
}

impl<T> Answer<T> {
    /// Waits for the answer. Returns `None` if the callback was dropped or, outside of browsers,
    /// if the timeout elapsed.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn wait(self, timeout: Duration) -> Option<T> {
        self.0.recv_timeout(timeout).ok()
    }

    #[cfg(target_arch = "wasm32")]
    pub async fn wait(self, _: Duration) -> Option<T> {
        self.0.await.ok()
    }
}
