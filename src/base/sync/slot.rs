//! A place that is filled once.

/// A place that is filled once and then read by all threads. Lock-free: if several threads fill it
/// at the same moment, one succeeds, and none waits for another as with
/// [`OnceLock`](std::sync::OnceLock).
#[derive(Debug)]
pub(crate) struct Slot<T> {
    value: once_cell::race::OnceBox<T>,
    /// What the model checker sees of the value.
    #[cfg(loom)]
    there: loom::sync::atomic::AtomicBool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            value: once_cell::race::OnceBox::new(),
            #[cfg(loom)]
            there: loom::sync::atomic::AtomicBool::new(false),
        }
    }
}

impl<T> Slot<T> {
    /// Stores `value`, unless the place is filled.
    pub(crate) fn set(&self, value: T) {
        // A value that comes too late is dropped.
        let _ = self.value.set(Box::new(value));
        #[cfg(loom)]
        self.there.store(true, loom::sync::atomic::Ordering::Release);
    }

    /// The value, after storing what `make` makes, if the place is not filled. Of several threads
    /// that make a value, all get the same.
    pub(crate) fn get_or_set(&self, make: impl FnOnce() -> T) -> &T {
        let value = self.value.get_or_init(|| Box::new(make()));
        #[cfg(loom)]
        self.there.store(true, loom::sync::atomic::Ordering::Release);
        value
    }

    /// The value, with everything that was done before it was stored.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        #[cfg(loom)]
        if !self.there.load(loom::sync::atomic::Ordering::Acquire) {
            return None;
        }
        self.value.get()
    }
}
