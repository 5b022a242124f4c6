/// Declares an `async` function of [`Host`](super::Host) together with its blocking twin, so that
/// both have one signature, one body and one doc comment. A page in a browser cannot block, so
/// the blocking function does not exist there.
macro_rules! with_blocking {
    (
        $blocking:ident,
        $(#[$attribute:meta])*
        pub async fn $name:ident(
            &$this:ident $(, $argument:ident: $kind:ty)* $(,)?
        ) -> $result:ty $body:block
    ) => {
        $(#[$attribute])*
        pub async fn $name(&$this $(, $argument: $kind)*) -> $result $body

        $(#[$attribute])*
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $blocking(&$this $(, $argument: $kind)*) -> $result {
            pollster::block_on($this.$name($($argument),*))
        }
    };
    (
        $blocking:ident,
        $(#[$attribute:meta])*
        pub async fn $name:ident($($argument:ident: $kind:ty),* $(,)?) -> $result:ty $body:block
    ) => {
        $(#[$attribute])*
        pub async fn $name($($argument: $kind),*) -> $result $body

        $(#[$attribute])*
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $blocking($($argument: $kind),*) -> $result {
            pollster::block_on(Self::$name($($argument),*))
        }
    };
}
pub(super) use with_blocking;
