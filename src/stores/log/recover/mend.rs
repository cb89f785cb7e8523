//! What an opening writes before anything else. The next superblock counts the directory pages that
//! were found, so both copies of each must be the same by then. And frames that the engine has
//! discarded must not look like damage at the next opening.

use super::loader::Loader;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::format::{DirectoryPage, PAGE, Superblock, directory_crc};
use crate::stores::log::layout::{Layout, slot_offsets};
use crate::stores::log::state::Recovered;

impl Loader {
    /// Writes the newest version, which is durable, to both copies of each directory page. Skips a
    /// page with a range restored from an older image, which perhaps only the other copy names.
    pub(crate) fn mend_directory(&self, recovered: &mut Recovered) -> Result<(), LogError> {
        let identity = recovered.superblock.identity();
        let mut writes = Vec::new();
        for (index, page) in recovered.pages.iter_mut().enumerate().filter(|(_, p)| !p.whole) {
            let place = page.place;
            let mut bytes = vec![0; PAGE];
            self.read(place.copies[page.newest], &mut bytes)?;
            let newest = DirectoryPage::from_bytes(&bytes, identity, index as u32, place.count);
            let newest = newest
                .filter(|found| found.version(&bytes) == page.version)
                .ok_or_else(|| self.damage(Part::DirectoryPage, place.copies[page.newest]))?;
            let ranges = &mut recovered.ranges[place.first_range as usize..][..place.count];
            let named = |(bases, entry): (&crate::stores::log::state::Bases, _)| {
                bases.iter().position(|base| base.image == entry)
            };
            let places: Option<Vec<usize>> = ranges.iter().zip(newest.entries).map(named).collect();
            let Some(places) = places else { continue };
            for (bases, named) in ranges.iter_mut().zip(places) {
                bases.drain(..named);
            }
            page.whole = true;
            writes.push((place.copies[1 - page.newest], bytes));
        }
        if writes.is_empty() {
            return Ok(());
        }
        for (offset, bytes) in writes {
            self.write(offset, &bytes)?;
        }
        self.sync()
    }

    /// Voids the frames behind the end of a damaged log, so that they no longer prove that
    /// something is missing.
    pub(crate) fn give_up_rest(&self, recovered: &Recovered) -> Result<(), LogError> {
        let Recovered { layout, superblock, head, .. } = recovered;
        let zeros = vec![0; layout.sector as usize];
        for position in self.frames_after(layout, superblock, head.position)? {
            self.write(layout.ring_offset(position), &zeros)?;
        }
        self.sync()
    }

    /// The positions of intact frames behind `position`.
    fn frames_after(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        position: u64,
    ) -> Result<Vec<u64>, LogError> {
        let end = superblock.tail.position.get() + layout.ring_len;
        let mut found = Vec::new();
        self.frames_behind(layout, position, end, |header| {
            found.push(header.position.get());
            true
        })?;
        Ok(found)
    }

    /// The checksum of the directory for the next superblock.
    pub(crate) fn directory_crc(recovered: &Recovered) -> u32 {
        directory_crc(recovered.pages.iter().map(|page| page.version.crc))
    }

    /// Writes the next superblock, to both places.
    pub(crate) fn write_superblock(&self, superblock: &mut Superblock) -> Result<(), LogError> {
        superblock.generation = superblock.generation.get().wrapping_add(1).into();
        for offset in slot_offsets(superblock.generation.get()) {
            self.write(offset, &superblock.to_page())?;
        }
        self.sync()
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
        self.disk.write(offset, bytes).map_err(|error| self.io("write", offset, error))
    }

    pub(crate) fn sync(&self) -> Result<(), LogError> {
        self.disk.sync().map_err(|error| self.io("sync", 0, error))
    }
}
