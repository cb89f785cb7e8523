//! Memory allocation that may fail.

/// The process could not get this much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

/// An empty vector with room for `len` elements.
pub(crate) fn reserved<T>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len)
        .map_err(|_| OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    Ok(vec)
}

/// `len` zero elements in untouched memory, so that what stays zero costs nothing. The memory is
/// touched if the elements need more alignment than the system gives;
/// use [`Lines`](crate::base::lines::Lines) then.
#[cfg(not(loom))]
pub(crate) fn zeroed<T: zerocopy::FromZeros>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    T::new_vec_zeroed(len).map_err(|_| OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })
}
