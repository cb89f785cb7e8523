//! The memory orderings of std: sequentially consistent throughout the protocol.

use super::site::Site;
use std::sync::atomic::Ordering;

pub(super) const PLAIN: Ordering = Ordering::Relaxed;

#[inline(always)]
pub(super) const fn load(_: Site) -> Ordering {
    Ordering::SeqCst
}
#[inline(always)]
pub(super) const fn store(site: Site) -> Ordering {
    match site {
        // Published by a compare-exchange that follows.
        Site::Link | Site::Node => Ordering::Release,
        _ => Ordering::SeqCst,
    }
}
#[inline(always)]
pub(super) const fn change(_: Site) -> Ordering {
    Ordering::SeqCst
}
#[inline(always)]
pub(super) const fn after(_: Site) {}
