//! Truth: `leaf_60`, `Leaf30::burn` (a trait object) and `leaf_10` (run while a
//! panic unwinds, from a destructor) burn 60, 30 and 10 % of the CPU time, the
//! first two under 100 frames of `recurse`.
use std::ffi::{c_char, c_int, c_long, c_void};

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn clock_gettime(clock: c_int, now: *mut Timespec) -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn ftruncate(fd: c_int, size: c_long) -> c_int;
    fn mmap(at: *mut c_void, size: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn alarm(seconds: u32) -> u32;
}

const THREAD_CPUTIME: c_int = 3;
static ACCOUNT: std::sync::atomic::AtomicPtr<u64> = std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());

fn thread_cpu_ns() -> u64 {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(THREAD_CPUTIME, &mut now) };
    now.seconds as u64 * 1_000_000_000 + now.nanoseconds as u64
}

/// The format is told in `oracle.h`.
fn open_account() {
    let Ok(path) = std::env::var("ORACLE") else { panic!("$ORACLE must name a file") };
    let path = std::ffi::CString::new(path).unwrap();
    let map = unsafe {
        alarm(300);
        let fd = open(path.as_ptr(), 0o2 | 0o100, 0o644);
        ftruncate(fd, 128);
        mmap(std::ptr::null_mut(), 128, 3, 1, fd, 0)
    };
    assert_ne!(map as isize, -1);
    ACCOUNT.store(map.cast(), std::sync::atomic::Ordering::Relaxed);
}

#[inline(always)]
fn burn(slot: usize, quota_ns: u64) {
    let account = ACCOUNT.load(std::sync::atomic::Ordering::Relaxed);
    let began = thread_cpu_ns();
    let mut before = began;
    let mut x = began | 1;
    while before - began < quota_ns {
        for _ in 0..100_000 {
            x = std::hint::black_box(x.wrapping_mul(6364136223846793005).wrapping_add(1));
        }
        let now = thread_cpu_ns();
        unsafe { account.add(slot).write_volatile(account.add(slot).read_volatile() + now - before) };
        before = now;
    }
}

#[inline(never)]
fn leaf_60() {
    burn(0, 12_000_000 + thread_cpu_ns() % 1_000_000);
}

trait Burn {
    fn burn(&self);
}

struct Leaf30;

impl Burn for Leaf30 {
    #[inline(never)]
    fn burn(&self) {
        burn(1, 6_000_000 + thread_cpu_ns() % 500_000);
    }
}

#[inline(never)]
fn leaf_10() {
    burn(2, 2_000_000 + thread_cpu_ns() % 200_000);
}

struct OnUnwind;

impl Drop for OnUnwind {
    #[inline(never)]
    fn drop(&mut self) {
        leaf_10();
        std::hint::black_box(());
    }
}

#[inline(never)]
fn recurse(depth: u32, leaf: &dyn Fn()) -> u32 {
    let below = if depth > 1 {
        recurse(depth - 1, leaf)
    } else {
        leaf();
        0
    };
    std::hint::black_box(below) + 1
}

fn main() {
    open_account();
    std::panic::set_hook(Box::new(|_| ()));
    let light: Box<dyn Burn> = std::hint::black_box(Box::new(Leaf30));
    loop {
        recurse(100, &leaf_60);
        recurse(100, &|| light.burn());
        let _ = std::panic::catch_unwind(|| {
            let _guard = OnUnwind;
            recurse(5, &|| panic!("on purpose"));
        });
    }
}
