//! A place that is filled once.

/// A place that is filled once and then read by all. Lock-free: of several threads that fill it at the same
/// moment one succeeds, and none waits for another, as they would with [`OnceLock`](std::sync::OnceLock).
#[derive(Debug)]
pub(crate) struct Slot<T> {
    value: once_cell::race::OnceBox<T>,
    /// What the model checker sees of it.
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
    /// Puts `value` there, unless something is.
    pub(crate) fn set(&self, value: T) {
        // What comes too late is dropped.
        let _ = self.value.set(Box::new(value));
        #[cfg(loom)]
        self.there.store(true, loom::sync::atomic::Ordering::Release);
    }

    /// What is there, with all that was done before it was put there.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        #[cfg(loom)]
        if !self.there.load(loom::sync::atomic::Ordering::Acquire) {
            return None;
        }
        self.value.get()
    }
}
