//! Where the log keeps things in more than one copy, as the format says.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::stores::log::format::{DirectoryPage, PAGE, Superblock, is_later};
use crate::stores::log::layout::{Layout, slot_offsets};
use crate::stores::log::tests::sim::SimDisk;

/// The slots of the superblock in each of its places, of which one may be lost altogether.
pub(super) fn superblock_places() -> Vec<Vec<usize>> {
    let offsets = [0, 1].map(slot_offsets);
    (0..2).map(|place| offsets.iter().map(|slot| slot[place] as usize).collect()).collect()
}

/// The newest superblock of the log in `area`, if there is any, and the places where it is intact.
fn newest(area: &[u8]) -> Option<(Superblock, Vec<usize>)> {
    let slots: Vec<usize> = (0..2).flat_map(slot_offsets).map(|offset| offset as usize).collect();
    let slot = |&at: &usize| Some((at, Superblock::from_page(area.get(at..at + PAGE)?).ok()?));
    let found: Vec<(usize, Superblock)> = slots.iter().filter_map(slot).collect();
    let later = |a: &Superblock, b: &Superblock| is_later(a.generation.get(), b.generation.get());
    let all = || found.iter().map(|(_, slot)| slot);
    let newest = all().find(|slot| !all().any(|other| later(other, slot)))?.clone();
    let intact = found.iter().filter(|(_, slot)| *slot == newest).map(|&(at, _)| at).collect();
    Some((newest, intact))
}

/// Everything of which there is another, intact copy: in each entry all copies.
pub(super) fn copies(area: &[u8]) -> Vec<Vec<usize>> {
    let Some((newest, intact)) = newest(area) else { return Vec::new() };
    let Some(layout) = Layout::from_superblock(&newest) else { return Vec::new() };
    let mut copies = Vec::new();
    if intact.len() > 1 {
        copies.push(intact);
    }
    for (index, place) in layout.directory().into_iter().enumerate() {
        let is_intact = |&at: &u64| {
            let page = area.get(at as usize..at as usize + PAGE);
            let page = page.and_then(|page| {
                DirectoryPage::from_bytes(page, newest.identity(), index as u32, place.count)
            });
            page.is_some()
        };
        if place.copies.iter().all(is_intact) {
            copies.push(place.copies.iter().map(|&at| at as usize).collect());
        }
    }
    copies
}

/// The last transaction that the older of the images knows of which the copies of the directory name,
/// for each range.
pub(super) fn named(disk: &SimDisk) -> Vec<u64> {
    let medium = disk.bytes();
    let area = &medium[disk.area(medium.len())];
    let (superblock, _) = newest(area).expect("a log that is open");
    let layout = Layout::from_superblock(&superblock).expect("ours");
    let mut oldest = Vec::new();
    for (index, place) in layout.directory().into_iter().enumerate() {
        let mut of_page = vec![u64::MAX; place.count];
        for at in place.copies {
            let page = &area[at as usize..][..PAGE];
            let id = superblock.identity();
            let page = DirectoryPage::from_bytes(page, id, index as u32, place.count);
            for (oldest, image) in
                of_page.iter_mut().zip(page.into_iter().flat_map(|page| page.entries))
            {
                *oldest = image.base.min(*oldest);
            }
        }
        oldest.extend(of_page);
    }
    oldest
}

/// Flips a bit in a page of which there is another, intact copy. It must make no difference,
/// whatever a power failure left.
pub(super) fn flip_a_spare(area: &mut [u8], rng: &mut Pcg64Mcg) {
    let copies = copies(area);
    if copies.is_empty() || rng.random() {
        return;
    }
    // The superblocks are few.
    let of = if rng.random() { 0 } else { rng.random_range(0..copies.len()) };
    let at = copies[of][rng.random_range(0..copies[of].len())];
    area[at + rng.random_range(0..PAGE)] ^= 1 << rng.random_range(0..8);
}
