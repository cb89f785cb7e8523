//! Memory that may not be there.

/// The process could not have this much memory.
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

/// `len` elements of zero bytes, in memory that is not touched, so that what stays so costs nothing; but it is
/// if they are aligned to more than the system aligns by itself, for which there are [`Lines`](crate::base::lines::Lines).
#[cfg(not(loom))]
pub(crate) fn zeroed<T: zerocopy::FromZeros>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    T::new_vec_zeroed(len).map_err(|_| OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })
}
