//! The directory: the images that exist.

use smallvec::SmallVec;

use super::loader::Loader;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::format::{DirectoryPage, PAGE, Superblock, Version, directory_crc};
use crate::stores::log::layout::Layout;
use crate::stores::log::record::Image;
use crate::stores::log::report::Report;
use crate::stores::log::state::PageFound;

/// All pages, and the images that they name.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub pages: Vec<PageFound>,
    /// For each range one or two images, the older first.
    pub entries: Vec<SmallVec<[Image; 2]>>,
}

impl Directory {
    /// The offset of the page that holds `range`.
    pub(super) fn offset_of(&self, range: u32) -> u64 {
        let page = self.pages.iter().rfind(|page| page.place.first_range <= range);
        page.map_or(0, |page| page.place.copies[0])
    }
}

impl Loader {
    pub(super) fn directory(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        report: &mut Report,
    ) -> Result<Directory, LogError> {
        let mut directory = Directory::default();
        directory.entries.resize(layout.ranges() as usize, SmallVec::new());
        let identity = superblock.identity();
        let mut bytes = vec![0; PAGE];
        for (index, place) in layout.directory().into_iter().enumerate() {
            let mut copies: SmallVec<[(DirectoryPage, Version, usize); 2]> = SmallVec::new();
            for (copy, &offset) in place.copies.iter().enumerate() {
                self.read(offset, &mut bytes)?;
                let page = DirectoryPage::from_bytes(&bytes, identity, index as u32, place.count);
                copies.extend(page.map(|page| {
                    let version = page.version(&bytes);
                    (page, version, copy)
                }));
            }
            copies.sort_by_key(|(page, ..)| page.sequence);
            report.damaged_copies += 2 - copies.len() as u64;
            let Some(&(_, version, newest)) = copies.last() else {
                return Err(self.damage(Part::DirectoryPage, place.copies[0]));
            };
            let whole = copies.len() == 2 && copies[0].1 == version;
            directory.pages.push(PageFound { place, version, newest, whole });
            for (page, ..) in &copies {
                for (entry, range) in page.entries.iter().zip(place.first_range as usize..) {
                    if !directory.entries[range].contains(entry) {
                        directory.entries[range].push(*entry);
                    }
                }
            }
        }
        if layout.major > 1 {
            self.compare_directory(superblock, &directory)?;
        }
        Ok(directory)
    }

    /// The versions found must be those that the superblock counts, or newer. This detects a page
    /// whose two copies are both older than they should be, each intact, and superblocks that are
    /// all too old.
    fn compare_directory(
        &self,
        superblock: &Superblock,
        directory: &Directory,
    ) -> Result<(), LogError> {
        let mut counted = Vec::with_capacity(directory.pages.len());
        for page in &directory.pages {
            let crc = page.version.counted_by(superblock.stamp());
            counted.push(crc.ok_or_else(|| self.damage(Part::Superblocks, 0))?);
        }
        if directory_crc(counted.into_iter()) == superblock.directory.get() {
            return Ok(());
        }
        let offset = directory.pages.first().map_or(0, |page| page.place.copies[0]);
        Err(self.damage(Part::Directory, offset))
    }
}
