//! Between a space-map log and RocksDB, both ways.

use freemap::rocks::{CreateOptions, OpenOptions};
use freemap::{Extent, FileDisk, RocksFreelist, SpaceMapLog};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{FAMILY, Place, allocate, assert_clean, bitmap};

#[test]
fn there_and_back_is_the_same() {
    let mut rng = Pcg64Mcg::seed_from_u64(9);
    let place = Place::new();
    let file = |name: &str| FileDisk::open(place.path().join(name)).unwrap();
    let blocks = 300_007;
    let options = freemap::CreateOptions::new().block_size(16_384).sparse();
    let log = SpaceMapLog::create(file("first"), blocks, &options).unwrap();
    let mut transaction = log.allocator.begin();
    for _ in 0..1000 {
        transaction.allocate(rng.random_range(1..100)).unwrap();
    }
    transaction.commit(&log.log).unwrap();
    let uuid = log.log.uuid();

    let options = CreateOptions::new().chunk_blocks(1024);
    let imported = RocksFreelist::import(place.database(), FAMILY, &log, &options).unwrap();
    assert_eq!(bitmap(&imported.allocator), bitmap(&log.allocator));
    assert_eq!((imported.freelist.uuid(), imported.allocator.block_size()), (uuid, 16_384));
    allocate(&imported, &[Extent::new(300_000, 7)]);
    assert_clean(&imported);

    let sparse = freemap::CreateOptions::new().sparse();
    let exported = imported.freelist.export(file("second"), &sparse).unwrap();
    assert_eq!(bitmap(&exported.allocator), bitmap(&imported.allocator));
    assert_eq!((exported.log.uuid(), exported.allocator.block_size()), (uuid, 16_384));
    assert!(exported.log.verify().is_ok());

    // And both again after a restart.
    let expected = bitmap(&imported.allocator);
    drop((log, imported, exported));
    let opened = SpaceMapLog::open(file("second"), &freemap::OpenOptions::new()).unwrap();
    assert_eq!(bitmap(&opened.allocator), expected);
    let opened = RocksFreelist::open(place.database(), FAMILY, &OpenOptions::new()).unwrap();
    assert_eq!(bitmap(&opened.allocator), expected);
}

#[test]
fn nothing_is_overwritten_on_the_way() {
    let place = Place::new();
    let path = place.path().join("log");
    let disk = || FileDisk::open(&path).unwrap();
    let sparse = freemap::CreateOptions::new().sparse();
    let log = SpaceMapLog::create(disk(), 1000, &sparse).unwrap();
    let opened = place.create(1000, &CreateOptions::new());
    let db = opened.freelist.database().clone();
    let other = FileDisk::open(place.path().join("text")).unwrap();
    std::fs::write(place.path().join("text"), [1; 10_000]).unwrap();
    assert!(opened.freelist.export(other, &sparse).is_err());
    assert_eq!(std::fs::read(place.path().join("text")).unwrap(), [1; 10_000]);
    drop(opened);
    assert!(RocksFreelist::import(db, FAMILY, &log, &CreateOptions::new()).is_err());
}
