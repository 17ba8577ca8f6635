//! ISA-L, the peer: its functions by name from the library that is there.
//!
//! The library is `CAIRN_ISAL`, or what `hwtests/lab/isal.sh` has fetched. With `CAIRN_ISAL` set, a
//! library that can't be loaded is an error; otherwise it counts as missing, and that is said.

use std::error::Error as _;
use std::ffi::{c_int, c_uchar, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

/// What is said without it.
pub(crate) const MISSING: &str = "\
*** ISA-L IS MISSING: our kernels run alone, and no target can be judged.
*** `bash hwtests/lab/isal.sh` fetches it; CAIRN_ISAL names a libisal.so.2 elsewhere.";

/// Bytes of tables for each factor.
const TABLE: usize = 32;

type Gen = unsafe extern "C" fn(c_int, c_int, *mut *mut c_void) -> c_int;
type Encode =
    unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uchar, *mut *mut c_uchar, *mut *mut c_uchar);
type EncodeUpdate =
    unsafe extern "C" fn(c_int, c_int, c_int, c_int, *mut c_uchar, *mut c_uchar, *mut *mut c_uchar);
type InitTables = unsafe extern "C" fn(c_int, c_int, *mut c_uchar, *mut c_uchar);
type Crc = unsafe extern "C" fn(*mut c_uchar, c_int, c_uint) -> c_uint;

/// Its functions: those that choose by the CPU, and what they choose on one with AVX2 alone.
pub(crate) struct Isal {
    /// The package's, or the file's name.
    pub(crate) version: String,
    xor_gen: Gen,
    pq_gen: Gen,
    pq_gen_avx2: Gen,
    pq_check: Gen,
    encode: Encode,
    encode_avx2: Encode,
    encode_update: EncodeUpdate,
    init_tables: InitTables,
    init_tables_base: InitTables,
    crc: Crc,
    /// Its code is what the pointers point to.
    _library: Library,
}

/// Which of its ways.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// What it chooses.
    Chosen,
    /// That of a CPU with AVX2.
    Avx2,
}

fn int(value: usize) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

/// All strips of a code word as it wants them: it takes no `const`, and writes to the outputs alone.
fn vectors<T>(sources: &[&[u8]], outs: &mut [&mut [u8]]) -> Vec<*mut T> {
    let len = sources.first().map_or(0, |source| source.len());
    assert!(
        sources.iter().all(|source| source.len() == len) && outs.iter().all(|out| out.len() == len),
        "strips of unequal lengths"
    );
    let sources = sources.iter().map(|source| source.as_ptr().cast_mut());
    let outs = outs.iter_mut().map(|out| out.as_mut_ptr());
    sources.chain(outs).map(<*mut u8>::cast).collect()
}

/// A matrix of factors as its kernels want it.
pub(crate) struct Factors {
    way: Way,
    sources: usize,
    rows: usize,
    tables: Vec<u8>,
}

impl Isal {
    /// The library, if there is one.
    pub(crate) fn load() -> Result<Option<Self>, String> {
        if let Some(path) = std::env::var_os("CAIRN_ISAL") {
            let path = PathBuf::from(path);
            return Self::open(&path).map(Some);
        }
        let path = |name: &str| Some(PathBuf::from(std::env::var_os(name)?));
        let lab = path("CAIRN_LAB").or_else(|| {
            let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
            Some(cache.join("cairn-lab"))
        });
        match lab.map(|lab| lab.join("isal/libisal.so.2")) {
            // A newer release's may want a newer C library than this machine has.
            Some(path) if path.exists() => Ok(Self::open(&path)
                .inspect_err(|error| println!("{error}"))
                .ok()),
            _ => Ok(None),
        }
    }

    fn open(path: &Path) -> Result<Self, String> {
        // What the loader says, and of which file, is the cause; the error itself says only that it failed.
        let said = |error: libloading::Error| match error.source() {
            Some(cause) => cause.to_string(),
            None => format!("{}: {error}", path.display()),
        };
        let package = std::fs::read_to_string(path.with_file_name("version"));
        let version = match package {
            Ok(version) => format!("ISA-L, libisal2 {}", version.trim()),
            Err(_) => format!("ISA-L, {}", path.display()),
        };
        // SAFETY: its initialisers set function pointers; the types are those of its headers.
        unsafe {
            let library = Library::new(path).map_err(said)?;
            Ok(Self {
                version,
                xor_gen: *library.get(b"xor_gen").map_err(said)?,
                pq_gen: *library.get(b"pq_gen").map_err(said)?,
                pq_gen_avx2: *library.get(b"pq_gen_avx2").map_err(said)?,
                pq_check: *library.get(b"pq_check").map_err(said)?,
                encode: *library.get(b"ec_encode_data").map_err(said)?,
                encode_avx2: *library.get(b"ec_encode_data_avx2").map_err(said)?,
                encode_update: *library.get(b"ec_encode_data_update").map_err(said)?,
                init_tables: *library.get(b"ec_init_tables").map_err(said)?,
                init_tables_base: *library.get(b"ec_init_tables_base").map_err(said)?,
                crc: *library.get(b"crc32_iscsi").map_err(said)?,
                _library: library,
            })
        }
    }

    /// `out` = XOR of the sources, strips at multiples of 32.
    pub(crate) fn xor(&self, sources: &[&[u8]], out: &mut [u8]) {
        let len = int(out.len());
        let mut vectors = vectors::<c_void>(sources, &mut [out]);
        // SAFETY: all strips are `len` long.
        let code = unsafe { (self.xor_gen)(int(vectors.len()), len, vectors.as_mut_ptr()) };
        assert_eq!(code, 0, "xor_gen refuses");
    }

    /// P and Q, strips at multiples of 32.
    pub(crate) fn pq(&self, way: Way, sources: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
        let len = int(p.len());
        let mut vectors = vectors::<c_void>(sources, &mut [p, q]);
        let generate = match way {
            Way::Chosen => self.pq_gen,
            Way::Avx2 => self.pq_gen_avx2,
        };
        // SAFETY: all strips are `len` long.
        let code = unsafe { generate(int(vectors.len()), len, vectors.as_mut_ptr()) };
        assert_eq!(code, 0, "pq_gen refuses");
    }

    /// Whether P and Q are those of the sources.
    pub(crate) fn is_pq(&self, sources: &[&[u8]], p: &mut [u8], q: &mut [u8]) -> bool {
        let len = int(p.len());
        let mut vectors = vectors::<c_void>(sources, &mut [p, q]);
        // SAFETY: all strips are `len` long.
        unsafe { (self.pq_check)(int(vectors.len()), len, vectors.as_mut_ptr()) == 0 }
    }

    /// Prepares rows of factors, one for each source.
    pub(crate) fn factors(&self, way: Way, rows: &[&[u8]]) -> Factors {
        let sources = rows.first().map_or(0, |row| row.len());
        let mut matrix = rows.concat();
        let mut tables = vec![0; TABLE * matrix.len()];
        let init = match way {
            Way::Chosen => self.init_tables,
            Way::Avx2 => self.init_tables_base,
        };
        // SAFETY: the matrix has so many factors, and the tables have room for them.
        unsafe {
            init(
                int(sources),
                int(rows.len()),
                matrix.as_mut_ptr(),
                tables.as_mut_ptr(),
            );
        }
        Factors {
            way,
            sources,
            rows: rows.len(),
            tables,
        }
    }

    /// Each out = Σ factor i · source i.
    pub(crate) fn encode(&self, factors: &Factors, sources: &[&[u8]], outs: &mut [&mut [u8]]) {
        assert!(
            sources.len() == factors.sources && outs.len() == factors.rows,
            "another matrix"
        );
        let len = outs.first().map_or(0, |out| int(out.len()));
        let mut vectors = vectors::<c_uchar>(sources, outs);
        let (data, coding) = vectors.split_at_mut(factors.sources);
        let encode = match factors.way {
            Way::Chosen => self.encode,
            Way::Avx2 => self.encode_avx2,
        };
        // SAFETY: all strips are `len` long, and the tables are for this many; it only reads them.
        unsafe {
            encode(
                len,
                int(factors.sources),
                int(factors.rows),
                factors.tables.as_ptr().cast_mut(),
                data.as_mut_ptr(),
                coding.as_mut_ptr(),
            );
        }
    }

    /// Each out ^= its factor · source, of a matrix for one source.
    pub(crate) fn add(&self, factors: &Factors, source: &[u8], outs: &mut [&mut [u8]]) {
        assert!(
            factors.sources == 1 && outs.len() == factors.rows && factors.way == Way::Chosen,
            "another matrix"
        );
        let mut vectors = vectors::<c_uchar>(&[source], outs);
        let (data, coding) = vectors.split_at_mut(1);
        let data = data.first().copied().unwrap_or(ptr::null_mut());
        // SAFETY: all strips are as long, and the tables are for one source; it only reads them.
        unsafe {
            (self.encode_update)(
                int(source.len()),
                1,
                int(factors.rows),
                0,
                factors.tables.as_ptr().cast_mut(),
                data,
                coding.as_mut_ptr(),
            );
        }
    }

    /// CRC-32C.
    pub(crate) fn crc32c(&self, bytes: &[u8]) -> u32 {
        // SAFETY: so many bytes are there, and it only reads them.
        !unsafe { (self.crc)(bytes.as_ptr().cast_mut(), int(bytes.len()), !0) }
    }
}
