//! Files on a volume's disk, found and laid there behind everybody's back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use minikeyvalue::model::{File, Key, Replica, path_of};

use super::Volume;

/// Where a file of a key lies on the disk of one of `volumes`.
pub fn file_at(volumes: &[Volume], place: &Replica, key: &str, file: File) -> PathBuf {
    let key = Key::from_request_path(key).unwrap();
    let volume = volumes.iter().find(|volume| volume.addr() == place.volume().as_str()).expect("it is ours");
    let subvolume = place.as_str().strip_prefix(&volume.addr()).unwrap().trim_start_matches('/');
    volume.dir().join(subvolume).join(path_of(&key, file).trim_start_matches('/'))
}

/// Writes a file, with the folders that it needs.
pub fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Has a file look as if it was last written so long ago.
pub fn age(path: &Path, age: Duration) {
    let file = fs::File::options().write(true).open(path).expect("it is there");
    file.set_modified(SystemTime::now() - age).expect("its time can be set");
}
