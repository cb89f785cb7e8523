//! One owner at a time.

/// Has at most one owner at a time. What an owner did happens before what the next owner does.
#[derive(Debug, Default)]
pub(crate) struct Turnstile(std::sync::atomic::AtomicBool);

impl Turnstile {
    /// Makes the caller the owner, unless there is one; returns whether it did.
    pub(crate) fn acquire(&self) -> bool {
        !self.0.swap(true, std::sync::atomic::Ordering::Acquire)
    }

    /// Ends the caller's ownership.
    pub(crate) fn release(&self) {
        self.0.store(false, std::sync::atomic::Ordering::Release);
    }

    /// Makes the caller the owner until the returned value is dropped; `None` if there is an owner.
    pub(crate) fn own(&self) -> Option<Owner<'_>> {
        self.acquire().then(|| Owner(self))
    }

    /// Calls `work` as the owner; `None` if there is an owner.
    pub(crate) fn with<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let _owner = self.own()?;
        Some(work())
    }
}

/// The owner of a [`Turnstile`].
#[derive(Debug)]
pub(crate) struct Owner<'a>(&'a Turnstile);

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}
