//! Where the files of a key lie on a volume, and which key a found path belongs to.
//!
//! The path is the Go original's, `/{md5[0]}/{md5[1]}/{base64(key)}`, wherever that names a usable file.
//! Base64's alphabet contains `/`, so some keys have a component that is too long, a name that ends in `/`, or
//! a `//` that nginx would fold: exactly those use the *long form*, `/{md5[0]}/{md5[1]}/=/` and base64url in
//! pieces.

use super::{Generation, Key};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// The file on each volume that names the cluster it belongs to.
pub const CLUSTER_PATH: &str = "/=cluster";

/// The file on each volume that tells which master's index is the present one.
pub const MASTER_PATH: &str = "/=master";

/// What stands in a volume's root or a subvolume beside folders of blobs: our own files, and what the Go original's volume
/// script and file systems leave there.
const NO_BLOBS: [&[u8]; 7] =
    [b"=cluster", b"=volume", b"=master", b"nginx.pid", b"body_temp", b"tmp", b"lost+found"];

/// Whether a volume's root can have an entry of this name: a folder of blobs, a subvolume, or what lies beside them.
pub fn is_of_layout(name: &[u8]) -> bool {
    let is_folder = name.len() == 2 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_subvolume = name.strip_prefix(b"sv").is_some_and(|number| {
        number.len() >= 2 && number.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
    });
    is_folder || is_subvolume || is_beside_blobs(name)
}

/// Whether a file or folder of this name lies beside the folders of blobs, and is none.
pub fn is_beside_blobs(name: &[u8]) -> bool {
    NO_BLOBS.contains(&name)
}

/// The file with which a volume is tried out, below a volume or subvolume. No listing shows a name that begins with a dot, so
/// one that is left behind is never taken for a blob or an orphan; and it is deep enough for nginx's `min_delete_depth`.
pub const TRIAL_PATH: &str = "/00/00/.mkv-check";

/// The longest file name that Linux file systems take, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// How many characters of base64url a component of the long form holds; a suffix and the `~` still fit.
const LONG_FORM_PIECE: usize = 200;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Marks every directory of the long form, so that no file of another key is ever in its way.
const CONTINUED: char = '~';

/// One of the files that a key may have on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum File {
    /// The content: at the plain path, or as a generation beside it.
    Blob(Option<Generation>),
    /// What a rebuild could not know otherwise, as JSON.
    Sidecar,
    /// The content of a key with `//` in its base64, where the Go original's nginx folded it to.
    Folded,
}

impl File {
    /// The files that a version has for sure: a generation never goes without its sidecar.
    pub fn of_version(generation: Option<Generation>) -> Vec<File> {
        let mut files = vec![File::Blob(generation)];
        files.extend(generation.map(|_| File::Sidecar));
        files
    }
}

/// The path of `file` of `key`, beginning with `/`. [`File::Folded`] of a key that has no folded path is the
/// plain one.
pub fn path_of(key: &Key, file: File) -> String {
    match file {
        File::Blob(None) => with_suffix(key.as_bytes(), ""),
        File::Blob(Some(generation)) => with_suffix(key.as_bytes(), &format!(".{generation}")),
        File::Sidecar => with_suffix(key.as_bytes(), SIDECAR_SUFFIX),
        File::Folded => folded_path(key).unwrap_or_else(|| with_suffix(key.as_bytes(), "")),
    }
}

/// Where the Go original's nginx stored `key`, if its base64 contains `//` and a file of that name can be. `None` also
/// where that is the path of another key: the file is that one's, and must not be removed with this.
pub fn folded_path(key: &Key) -> Option<String> {
    let name = STANDARD.encode(key.as_bytes());
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    if !name.contains("//") || name.ends_with('/') || parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
        return None;
    }
    let path = format!("{}/{}", folder(key.as_bytes()), parts.join("/"));
    decode_path(&path).is_none().then_some(path)
}

/// The key and the kind of file that `path` (below a volume or subvolume, beginning with `/`) is; `None` if
/// no key has a file there. The folded paths of the Go original are not recognised here: they can't be decoded.
pub fn decode_path(path: &str) -> Option<(Key, File)> {
    let (plain, file) = split_suffix(path);
    let rest = plain.get(7..).filter(|_| plain.is_char_boundary(7))?;
    let bytes = match rest.strip_prefix("=/") {
        Some(pieces) => URL_SAFE_NO_PAD.decode(pieces.replace(&format!("{CONTINUED}/"), "")).ok()?,
        None => STANDARD.decode(rest).ok()?,
    };
    let key = Key::new(bytes).ok()?;
    (path_of(&key, file) == path).then_some((key, file))
}

/// The key whose folded path `path` is, if exactly one key's is: the slashes that nginx has folded are put back in
/// every way that gives base64 of the right length, and the folder's name, 16 bits of an MD5, decides.
pub fn unfolded_key(path: &str) -> Option<Key> {
    let name = path.get(7..).filter(|_| path.is_char_boundary(7))?;
    let gaps: Vec<usize> = name.match_indices('/').map(|(at, _)| at).collect();
    if gaps.is_empty() || name.starts_with('/') {
        return None;
    }
    let least = (4 - name.len() % 4) % 4;
    let counts = if least == 0 { vec![4] } else { vec![least, least + 4] };
    let mut names = Vec::new();
    for count in counts {
        with_slashes(name, &gaps, count, &mut names);
    }
    let key_of = |name: String| Key::new(STANDARD.decode(name).ok()?).ok();
    let is_folded_to =
        |key: &Key| path.starts_with(&folder(key.as_bytes())) && folded_path(key).as_deref() == Some(path);
    let mut keys = names.into_iter().filter_map(key_of).filter(is_folded_to);
    keys.next().filter(|_| keys.next().is_none())
}

/// More ways than this to put slashes back leave too much to 16 bits of an MD5.
const MAX_UNFOLDINGS: usize = 4096;

/// Adds every form of `name` with `count` more slashes at `gaps` (positions of slashes) to `names`.
fn with_slashes(name: &str, gaps: &[usize], count: usize, names: &mut Vec<String>) {
    let Some((last, others)) = gaps.split_last() else {
        names.extend((count == 0).then(|| name.to_owned()));
        return;
    };
    for here in 0..=count {
        if names.len() >= MAX_UNFOLDINGS {
            return;
        }
        let mut longer = name.to_owned();
        longer.insert_str(*last, &"/".repeat(here));
        with_slashes(&longer, others, count - here, names);
    }
}

/// What the path of every sidecar ends with.
pub const SIDECAR_SUFFIX: &str = ".meta";

/// A generation's suffix: a point and 16 hex digits.
const GENERATION_SUFFIX_BYTES: usize = 17;

fn split_suffix(path: &str) -> (&str, File) {
    if let Some(plain) = path.strip_suffix(SIDECAR_SUFFIX) {
        return (plain, File::Sidecar);
    }
    let cut = path.len().saturating_sub(GENERATION_SUFFIX_BYTES);
    if let (Some(plain), Some(suffix)) = (path.get(..cut), path.get(cut..))
        && let Some(generation) = suffix.strip_prefix('.').and_then(Generation::parse)
    {
        return (plain, File::Blob(Some(generation)));
    }
    (path, File::Blob(None))
}

fn folder(key: &[u8]) -> String {
    let digest = md5::compute(key);
    let hex = |nibble: u8| char::from(HEX[usize::from(nibble)]);
    digest[..2].iter().flat_map(|byte| ['/', hex(byte >> 4), hex(byte & 15)]).collect()
}

// A rebuild makes the path of every file that it finds, so that a formatter's cost for each would be seen.
fn with_suffix(key: &[u8], suffix: &str) -> String {
    let mut path = folder(key);
    let folder_bytes = path.len();
    path.reserve(key.len().div_ceil(3) * 4 + 1 + suffix.len());
    path.push('/');
    STANDARD.encode_string(key, &mut path);
    if !usable(&path[folder_bytes + 1..], suffix) {
        path.truncate(folder_bytes);
        path.push_str("/=/");
        push_long_form(key, &mut path);
    }
    path.push_str(suffix);
    path
}

/// Whether the components of a name can be names of files, the last with `suffix` behind it.
fn usable(name: &str, suffix: &str) -> bool {
    let is_usable =
        |part: &[u8], suffix: &str| !part.is_empty() && part.len() + suffix.len() <= MAX_NAME_BYTES;
    let mut parts = name.as_bytes().rsplit(|byte| *byte == b'/');
    parts.next().is_some_and(|last| is_usable(last, suffix)) && parts.all(|part| is_usable(part, ""))
}

fn push_long_form(key: &[u8], form: &mut String) {
    let name = URL_SAFE_NO_PAD.encode(key);
    let mut rest = name.as_str();
    while rest.len() > LONG_FORM_PIECE {
        let (piece, tail) = rest.split_at(LONG_FORM_PIECE);
        form.push_str(piece);
        form.push(CONTINUED);
        form.push('/');
        rest = tail;
    }
    form.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// What the Go original computed for keys of every kind.
    fn golden() -> Vec<(Vec<u8>, String)> {
        let text = include_str!("../../tests/vectors/key_paths.json");
        let rows: Vec<HashMap<String, String>> = serde_json::from_str(text).unwrap();
        rows.iter().map(|row| (STANDARD.decode(&row["key_base64"]).unwrap(), row["path"].clone())).collect()
    }

    #[test]
    fn usable_paths_are_the_go_originals() {
        let mut standard = 0;
        for (key, path) in golden() {
            let name = &path[7..];
            if usable(name, "") {
                assert_eq!(with_suffix(&key, ""), path);
                standard += 1;
            } else {
                assert!(with_suffix(&key, "").starts_with(&format!("{}=/", &path[..7])), "{path}");
            }
        }
        assert!(standard > 200, "only {standard} of the golden paths were compared");
    }

    #[test]
    fn a_folded_path_is_traced_back_to_its_key() {
        // Three bytes of ones are four slashes in base64; in other places of a key, three and two.
        let ones = (0..40).map(|number| [b"/", "x".repeat(number).as_bytes(), &[0xff; 3], b"end"].concat());
        let keys = golden().into_iter().map(|(key, _)| key).chain(ones).filter_map(|key| Key::new(key).ok());
        let folded: Vec<(Key, String)> =
            keys.filter_map(|key| folded_path(&key).map(|path| (key, path))).collect();
        assert!(folded.len() >= 40, "only {} folded keys", folded.len());
        for (key, path) in folded {
            assert_eq!(unfolded_key(&path), Some(key), "{path}");
        }
        assert_eq!(unfolded_key("/36/0d/L3g="), None);
        assert_eq!(unfolded_key("/36/0d/L3/g="), None);
    }

    #[test]
    fn unusable_names_take_the_long_form() {
        let key = Key::new(*b"/\xd0\xbf").unwrap();
        assert_eq!(path_of(&key, File::Blob(None)), "/36/0d/=/L9C_");
        let key = Key::new(format!("/{}", "x".repeat(300))).unwrap();
        let path = path_of(&key, File::Blob(None));
        assert!(path.split('/').all(|part| part.len() <= 201), "{path}");
        assert_eq!(path.matches("~/").count(), 2);
    }

    #[test]
    fn a_suffix_that_does_not_fit_moves_only_that_file() {
        // 189 bytes: 252 characters of base64, room for no suffix.
        let key = Key::new(format!("/{}", "x".repeat(188))).unwrap();
        assert!(!path_of(&key, File::Blob(None)).contains('='));
        assert!(path_of(&key, File::Sidecar).contains("/=/"));
        assert!(path_of(&key, File::Blob(Generation::parse("0123456789abcdef"))).contains("/=/"));
    }

    #[test]
    fn doubled_slashes_are_found_where_nginx_folded_them() {
        let key = Key::new(*b"/ab/\xff\xffxyz").unwrap();
        assert_eq!(STANDARD.encode(key.as_bytes()), "L2FiL///eHl6");
        assert_eq!(folded_path(&key).unwrap()[7..], *"L2FiL/eHl6");
        assert_eq!(folded_path(&Key::new(*b"/hello").unwrap()), None);
    }

    #[test]
    fn a_folded_path_is_never_that_of_another_key() {
        // Four more slashes in base64 are three more bytes; one key in 65,536 has its folder in common with the other.
        let pair = (0..1_u32 << 20).find_map(|number| {
            let other = [&b"/a?"[..], &number.to_be_bytes()].concat();
            let name = STANDARD.encode(&other);
            let longer = STANDARD.decode(name.replacen('/', "/////", 1)).ok()?;
            let is_pair = name.contains('/') && usable(&name, "") && folder(&longer) == folder(&other);
            is_pair.then(|| (Key::new(longer).unwrap(), Key::new(other).unwrap()))
        });
        let (key, other) = pair.unwrap();
        assert!(path_of(&key, File::Blob(None)).contains("/=/"));
        assert!(!path_of(&other, File::Blob(None)).contains("/=/"));
        assert_eq!(folded_path(&key), None);
        assert_ne!(path_of(&key, File::Folded), path_of(&other, File::Blob(None)));
    }

    #[test]
    fn paths_of_nothing_decode_to_nothing() {
        for path in [
            "",
            "/",
            CLUSTER_PATH,
            TRIAL_PATH,
            "/nginx.pid",
            "/5d/41/aGVsbG8=",
            "/00/00/L2E=",
            "/06/39/L2E",
            "/06/3é/L2E=",
        ] {
            assert_eq!(decode_path(path), None, "{path}");
        }
    }

    fn key_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            prop::collection::vec(any::<u8>(), 150..400),
            // 0xff and 0x3f give the slashes of base64.
            prop::collection::vec(prop_oneof![Just(0xff_u8), Just(b'?'), Just(b'/'), Just(b'a')], 0..260),
        ]
        .prop_map(|mut bytes| {
            bytes.insert(0, b'/');
            bytes
        })
    }

    proptest! {
        #[test]
        fn every_file_of_every_key_decodes_to_itself(bytes in key_bytes(), stamp in any::<u64>()) {
            let key = Key::new(bytes).unwrap();
            for file in [File::Blob(None), File::Blob(Some(Generation::new(stamp))), File::Sidecar] {
                let path = path_of(&key, file);
                prop_assert!(path.split('/').skip(1).all(|part| (1..=MAX_NAME_BYTES).contains(&part.len())), "{}", path);
                prop_assert_eq!(decode_path(&path), Some((key.clone(), file)));
            }
        }

        #[test]
        fn any_text_decodes_only_to_its_own_path(path in "(/[0-9a-f]{2}){2}/(=/)?[A-Za-z0-9+/=~._-]{0,40}") {
            if let Some((key, file)) = decode_path(&path) {
                prop_assert_eq!(path_of(&key, file), path);
            }
        }
    }
}
