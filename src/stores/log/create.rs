//! Creating a log.

use crate::allocator::Allocator;
use crate::stores::log::SpaceMapLog;
use crate::stores::log::blank::refuse_used;
use crate::stores::log::disk::Disk;
use crate::stores::log::error::LogError;
use crate::stores::log::format::{PAGE, Superblock, Tail, directory_crc};
use crate::stores::log::layout::{Layout, SECOND_PLACE, is_limit};
use crate::stores::log::mirror::{RANGE_WORDS, blocks_of};
use crate::stores::log::open::Opened;
use crate::stores::log::options::{CreateOptions, OpenOptions};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::recover::Loader;
use crate::stores::log::state::empty_page;
use crate::stores::log::writer::image;
use crate::values::plain_bitmap::expect_count;
use std::io;
use std::sync::Arc;

/// Where a new log starts counting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// The last transaction, and the engine's position.
    pub lsn: u64,
    pub engine: u64,
}

pub(super) fn layout(blocks: u64, options: &CreateOptions) -> Result<Layout, LogError> {
    let sector = u64::from(options.sector.unwrap_or(PAGE as u32));
    if ![512, 4096].contains(&sector) {
        let reason = "a sector has 512 or 4096 bytes";
        return Err(LogError::Option { name: "sector", value: sector, reason });
    }
    let limit = options.limit.unwrap_or_else(|| Layout::default_limit(blocks));
    if !is_limit(limit) {
        let reason = "a multiple of 4096 from 64 KiB to 1 TiB";
        return Err(LogError::Option { name: "limit", value: limit, reason });
    }
    Ok(Layout::new(blocks, sector, limit))
}

fn draw_uuid() -> io::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(io::Error::other)?;
    Ok(uuid)
}

/// The superblock of an empty log that goes on from `origin`.
fn first_superblock(layout: &Layout, uuid: [u8; 16], origin: Origin) -> Superblock {
    let mut superblock = Superblock::zeroed();
    layout.describe(&mut superblock);
    superblock.uuid = uuid;
    superblock.tail = Tail {
        sequence: 1.into(),
        previous: crc32c::crc32c(&uuid).into(),
        lsn: origin.lsn.into(),
        engine: origin.engine.into(),
        ..Tail::default()
    };
    // Earlier transactions are not in this log.
    superblock.floor = origin.lsn.into();
    superblock
}

/// The words of `range` in a bitmap of `blocks` blocks, with nothing beyond the last.
pub(super) fn range_of(bitmap: &[u64], blocks: u64, range: u32) -> Vec<u64> {
    let start = range as usize * RANGE_WORDS;
    let mut words = bitmap[start..bitmap.len().min(start + RANGE_WORDS)].to_vec();
    if let Some(last) = words.last_mut()
        && !blocks_of(blocks, range).is_multiple_of(64)
    {
        *last &= u64::MAX >> (64 - blocks_of(blocks, range) % 64);
    }
    words.resize(RANGE_WORDS, 0);
    words
}

impl SpaceMapLog {
    /// Makes `disk` the log of a new device of `blocks` blocks, all free. Writes the whole area
    /// once (1.75 times the limit, and 8 KiB for every 32768 blocks), and flushes five times.
    ///
    /// # Errors
    /// [`LogError::Exists`] if the disk holds a log and [`LogError::NotBlank`] if it holds anything
    /// else where the log would be (all of that is read once), unless [`CreateOptions::overwrite`]
    /// is set; [`LogError::Option`], [`LogError::Config`] for impossible options; [`LogError::Io`].
    /// After [`LogError::Io`] and after
    /// [`ConfigError::OutOfMemory`](crate::ConfigError::OutOfMemory), there may be a log already.
    pub fn create(
        disk: impl Disk + 'static,
        blocks: u64,
        options: &CreateOptions,
    ) -> Result<Opened, LogError> {
        Self::create_with(Arc::new(disk), blocks, None, options, Origin::default())
    }

    /// As [`SpaceMapLog::create`], for a device that is in use already: bit i % 64 of word i / 64
    /// of `allocated` is block i, 1 = allocated, as in
    /// [`Allocator::from_bitmap`](crate::Allocator::from_bitmap). Writes an image of every range
    /// that is neither all free nor all used.
    ///
    /// # Errors
    /// As [`SpaceMapLog::create`], and
    /// [`ConfigError::BitmapLength`](crate::ConfigError::BitmapLength).
    pub fn create_from_bitmap(
        disk: impl Disk + 'static,
        blocks: u64,
        allocated: &[u64],
        options: &CreateOptions,
    ) -> Result<Opened, LogError> {
        expect_count(blocks, allocated)?;
        Self::create_with(Arc::new(disk), blocks, Some(allocated), options, Origin::default())
    }

    pub(super) fn create_with(
        disk: Arc<dyn Disk>,
        blocks: u64,
        allocated: Option<&[u64]>,
        options: &CreateOptions,
        origin: Origin,
    ) -> Result<Opened, LogError> {
        let block_size = options.block_size.unwrap_or(4096);
        Allocator::builder(blocks)
            .block_size(block_size)
            .with_settings(options.settings)
            .validate()?;
        let layout = layout(blocks, options)?;
        let loader = Loader::new(disk.clone());
        let used = disk.len().map_err(|error| loader.io("measure", 0, error))? > 0;
        if used && !options.overwrite {
            refuse_used(&loader, &*disk, layout.len())?;
        }
        let uuid = match options.uuid {
            Some(uuid) => uuid,
            None => draw_uuid().map_err(|error| loader.io("draw a UUID", 0, error))?,
        };
        let mut superblock = first_superblock(&layout, uuid, origin);
        superblock.block_shift = block_size.ilog2() as u8;
        superblock.mode = options.authority.encode();
        disk.grow(layout.len()).map_err(|error| loader.io("grow", layout.len(), error))?;
        let write = |offset: u64, bytes: &[u8]| {
            disk.write(offset, bytes).map_err(|error| loader.io("write", offset, error))
        };
        let sync = || disk.sync().map_err(|error| loader.io("sync", 0, error));
        for place in [0, SECOND_PLACE] {
            write(place, &[0; 2 * PAGE])?;
        }
        sync()?;
        // Everything is written once, so that no later flush has to find room for it. A used ring
        // must in any case not show frames of its old log.
        let start = 2 * PAGE as u64;
        let end = match options.sparse {
            true if used => layout.ring_start + layout.ring_len,
            true => start,
            false => layout.len(),
        };
        let zeros = vec![0; 1 << 20];
        for offset in (start..end).step_by(zeros.len()) {
            let len = (end - offset).min(zeros.len() as u64);
            write(offset, &zeros[..len as usize])?;
        }
        let (mut total, mut pages) = (0, Vec::new());
        for (index, place) in layout.directory().iter().enumerate() {
            let mut page = empty_page(index, place, superblock.stamp());
            for (entry, range) in page.entries.iter_mut().zip(place.first_range..) {
                let Some(allocated) = allocated else { continue };
                let words = range_of(allocated, blocks, range);
                let (image, bytes) = image(&words, 0, 0);
                if let Some(bytes) = bytes {
                    write(layout.image_offset(range, 0), &bytes)?;
                }
                total += RANGE_BLOCKS - u64::from(image.free);
                *entry = image;
            }
            let bytes = page.to_bytes(superblock.identity());
            pages.push(page.version(&bytes).crc);
            write(place.copies[0], &bytes)?;
            write(place.copies[1], &bytes)?;
        }
        superblock.tail.allocated = total.into();
        superblock.directory = directory_crc(pages.into_iter()).into();
        sync()?;
        loader.write_superblock(&mut superblock)?;
        let CreateOptions { settings, queue, hold, .. } = *options;
        Self::open_with(disk, &OpenOptions { settings, queue, hold, ..OpenOptions::default() })
    }
}
