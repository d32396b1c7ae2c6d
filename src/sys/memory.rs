//! The memory of this process: its heap grows in one step, and a long wait keeps little of it.

use std::ffi::c_void;

/// Bytes of heap that a run needs until its agent executes.
const HEAP: usize = 416 * 1024;

/// Grows the heap in one step instead of many, each a system call, and maps its pages at once instead of one
/// by one, each a page fault. [`trim_memory`] returns what is not needed. mallopt(3), madvise(2); a kernel
/// before 5.14 lacks MADV_POPULATE_WRITE and maps the pages one by one.
pub fn ready_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt and the first malloc change the allocator's own data only; one thread runs. sbrk(0)
    // returns the end of the heap. All pages between its former and its present end belong to the heap, and
    // madvise keeps their content. Unseen: AddressSanitizer replaces the C library's allocator.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, HEAP as libc::c_int);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * HEAP as libc::c_int);
        let begin = libc::sbrk(0).map_addr(|a| a.next_multiple_of(4096));
        libc::free(std::hint::black_box(libc::malloc(1)));
        if libc::sbrk(0).addr() >= begin.addr() + HEAP {
            libc::madvise(begin, HEAP, libc::MADV_POPULATE_WRITE);
        }
    }
}

/// Bytes of stack that parsing and starting have used at most, rounded up generously.
const STACK: usize = 256 * 1024;

/// Bytes below this frame that are kept for this function and what it calls.
const SHALLOW: usize = 16 * 1024;

/// Returns memory to the kernel before a long wait: what is free in the allocator, and the stack that parsing
/// and starting have used. malloc_trim(3), madvise(2).
pub fn trim_memory() {
    // SAFETY: it changes the allocator's own data only; one thread runs. Unseen, as in `ready_heap`.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    let here = 0u8;
    let deep = (&raw const here).map_addr(|a| (a - STACK) & !4095).cast_mut().cast::<c_void>();
    // SAFETY: the main thread alone runs, on the stack that the kernel gave it, which grows downwards;
    // nothing uses what lies below this frame and below what the kernel may write there for a call. The
    // guard gap below a stack is longer than this. Returned pages read as zeros when they are used again.
    // Unseen: the kernel takes them.
    unsafe { libc::madvise(deep, STACK - SHALLOW, libc::MADV_DONTNEED) };
}
