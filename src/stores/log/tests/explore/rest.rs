//! What may be damaged while the log is at rest, one place at a time.

use std::sync::Arc;

use rand::RngExt;

use super::places;
use super::timeline::compare;
use super::world::World;
use crate::stores::log::format::PAGE;
use crate::stores::log::{Authority, OpenOptions, SpaceMapLog};

impl World {
    /// Each place of the superblock can be lost, and each copy of what there is more than once can be
    /// damaged.
    pub(super) fn damage_places(&mut self) -> Result<(), String> {
        let absorbing =
            self.authority == Authority::Piggyback && self.line.acknowledged() > self.line.first();
        if absorbing || !self.is_at_rest() || !self.rng.random_ratio(1, 8) {
            return Ok(());
        }
        let medium = self.disk.bytes();
        let area = self.disk.area(medium.len());
        let copies = places::copies(&medium[area.clone()]);
        let mut damages = places::superblock_places();
        damages.extend(copies[self.rng.random_range(0..copies.len())].iter().map(|&at| vec![at]));
        for damage in damages {
            let mut bytes = medium.clone();
            for at in &damage {
                bytes[area.start + at + self.rng.random_range(0..PAGE)] ^= 1;
            }
            let disk = Arc::new(self.disk.restarted(bytes));
            SpaceMapLog::inspect(disk, &OpenOptions::new())
                .map_err(|error| error.to_string())
                .and_then(|(allocator, _)| compare(&allocator, self.line.now()))
                .map_err(|error| format!("with damage at {damage:?}: {error}"))?;
        }
        Ok(())
    }
}
