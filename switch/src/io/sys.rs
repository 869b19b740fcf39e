//! System calls that no safe crate covers, behind safe signatures. The only `unsafe` of pontoon.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_short, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use libc::sock_filter;
use socket2::{Domain, Socket, Type};

use crate::frame::{self, ETHERNET_HEADER, Frame, VNET_HEADER};

/// Frames that one recvmmsg(2) or sendmmsg(2) carries. The headers for them live on the stack.
pub(super) const BATCH: usize = 32;

/// Turns the C convention into a `Result`.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// TUNSETIFF: makes or attaches to the device `name` (1 to 15 bytes) in the namespace where `fd`
/// was opened. `flags` are `IFF_`.
pub(super) fn tun_set_interface(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
    Ok(())
}

/// TUNGETIFF: the present name of the device, wherever it was moved. EBADFD when it is gone.
pub(super) fn tun_interface_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut request = interface_request("");
    // SAFETY: TUNGETIFF writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &mut request) })?;
    let last = request.ifr_name.len() - 1;
    request.ifr_name[last] = 0;
    // SAFETY: the array holds a NUL, written above, and outlives the borrow.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

/// TUNSETPERSIST: does the device outlive its last descriptor?
pub(super) fn tun_set_persist(fd: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETPERSIST as _,
            c_int::from(persist),
        )
    })?;
    Ok(())
}

/// TUNSETOFFLOAD: what the reader accepts (`TUN_F_`); the device's features follow.
pub(super) fn tun_set_offload(fd: BorrowedFd<'_>, features: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            libc::c_ulong::from(features),
        )
    })?;
    Ok(())
}

/// TUNSETVNETHDRSZ: bytes of the header in front of each frame.
pub(super) fn tun_set_vnet_header_size(fd: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    let size = size as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &size) })?;
    Ok(())
}

/// setsockopt(2) of an option whose value is an int.
pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe one int, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// getsockopt(2) of an option whose value is an int.
pub(super) fn option(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the pointers describe one int and its length, which outlive the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast::<c_void>(),
            &mut length,
        )
    })?;
    Ok(value)
}

/// PACKET_STATISTICS: frames dropped since the last call because the receive buffer was full.
pub(super) fn packet_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the pointers describe one tpacket_stats and its length, which outlive the call; the
    // kernel writes that shape for TPACKET_V1, which a socket without a ring has.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast::<c_void>(),
            &mut length,
        )
    })?;
    Ok(statistics.tp_drops)
}

/// SO_ATTACH_FILTER: replaces the socket's classic BPF program in one step. The kernel verifies it.
pub(super) fn attach_filter(fd: BorrowedFd<'_>, program: &[sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the pointer and the length describe one sock_fprog, which describes `len` instructions
    // of the caller's slice; the kernel only reads both, during the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast::<c_void>(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Binds an AF_PACKET socket to all protocols of an interface.
pub(super) fn bind_packet(fd: BorrowedFd<'_>, ifindex: c_int) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr_ll: plain integers.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex;
    // SAFETY: the pointer and the length describe one sockaddr_ll, which outlives the call.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// The interface an AF_PACKET socket is bound to; -1 once that is gone.
pub(super) fn bound_ifindex(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: as above.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointers describe one sockaddr_ll and its length, which outlive the call; the
    // kernel writes no more than the length.
    check(unsafe {
        libc::getsockname(
            fd.as_raw_fd(),
            (&raw mut address).cast::<libc::sockaddr>(),
            &mut length,
        )
    })?;
    Ok(address.sll_ifindex)
}

/// sched_setattr(2): how long the calling thread's turns on a CPU are at most, of those that the
/// kernel deals out by fair scheduling. One with shorter turns than the thread that has the CPU
/// gets it when it wakes. Needs no right; a kernel older than 6.12 ignores the wish.
pub(crate) fn set_cpu_turn(nanoseconds: u64) -> io::Result<()> {
    /// The first version of the kernel's structure, which every later kernel takes.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    // SAFETY: getpriority takes its arguments by value; 0 is the calling thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        nice,
        runtime: nanoseconds,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads as many bytes as the structure says it has, during the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Room for one control message of `struct tpacket_auxdata` (20 bytes behind a header of 16), at the
/// alignment of a cmsghdr.
const CONTROL_WORDS: usize = 6;

/// recvmmsg(2) into the frames' own buffers, up to [`BATCH`] of them, without blocking. Puts back
/// VLAN tags that the kernel carries beside the frame. A frame cut by the kernel is left empty.
///
/// What is read is an IP packet if `headerless`; the frame gets an Ethernet header then.
pub(super) fn receive_batch(
    fd: BorrowedFd<'_>,
    frames: &mut [Frame],
    headerless: bool,
) -> io::Result<usize> {
    let gap = if headerless { ETHERNET_HEADER } else { 0 };
    let count = frames.len().min(BATCH);
    let mut vectors = [[libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; 2]; BATCH];
    let mut controls = [[0u64; CONTROL_WORDS]; BATCH];
    // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (index, frame) in frames[..count].iter_mut().enumerate() {
        let (vnet, space) = frame.space_mut().split_at_mut(VNET_HEADER);
        for (vector, part) in vectors[index].iter_mut().zip([vnet, &mut space[gap..]]) {
            vector.iov_base = part.as_mut_ptr().cast();
            vector.iov_len = part.len();
        }
        let header = &mut messages[index].msg_hdr;
        header.msg_iov = vectors[index].as_mut_ptr();
        header.msg_iovlen = 2;
        header.msg_control = controls[index].as_mut_ptr().cast();
        header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
    }
    // SAFETY: `count` headers are filled in above; each points to two iovecs, two parts of a
    // frame's space and a control buffer that outlive the call, are written by the kernel alone
    // meanwhile, and do not overlap.
    let received = check(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as _,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    })? as usize;
    for (frame, message) in frames.iter_mut().zip(&messages[..received]) {
        let bytes = message.msg_len as usize;
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || bytes < VNET_HEADER {
            continue; // space_mut left it empty
        }
        frame.set_len(bytes - VNET_HEADER + gap);
        if headerless {
            frame.put_ethernet_header();
        }
        if let Some((tpid, tci)) = stripped_tag(&message.msg_hdr) {
            frame.insert_vlan(tpid, tci);
        }
    }
    Ok(received)
}

/// recvmsg(2) of one frame, its vnet header in front, into `space`, without blocking. Returns its
/// bytes, 0 if they did not fit, and the VLAN tag that the kernel carries beside it, as TPID and
/// TCI.
pub(super) fn receive_one(
    fd: BorrowedFd<'_>,
    space: &mut [u8],
) -> io::Result<(usize, Option<(u16, u16)>)> {
    let mut vector = libc::iovec {
        iov_base: space.as_mut_ptr().cast(),
        iov_len: space.len(),
    };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
    // SAFETY: the header points to one iovec, the bytes of `space` and a control buffer, which
    // outlive the call and are written by the kernel alone meanwhile.
    let received =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT as _) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_cut = header.msg_flags & libc::MSG_TRUNC != 0;
    let bytes = if is_cut { 0 } else { received as usize };
    Ok((bytes, stripped_tag(&header)))
}

/// The VLAN tag that came beside a received frame (PACKET_AUXDATA), as TPID and TCI. The kernel
/// takes the tag off on receive and on a veth that offloads tagging.
fn stripped_tag(header: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: `header` was filled by recvmsg or recvmmsg, so its control pointer and length
    // describe the messages in a live, aligned buffer.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole cmsghdr inside the buffer.
        let message = unsafe { &*control };
        if message.cmsg_level == libc::SOL_PACKET
            && message.cmsg_type == libc::PACKET_AUXDATA
            && message.cmsg_len as usize >= size_of::<libc::cmsghdr>() + AUXDATA
        {
            // SAFETY: the length was checked, so the data is AUXDATA bytes inside the buffer; read
            // unaligned, and any bytes are a valid tpacket_auxdata.
            let auxdata = unsafe {
                libc::CMSG_DATA(control)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned()
            };
            if auxdata.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            // Without the bit the kernel is older than 3.14 and the tag is 802.1Q's.
            let tpid = match auxdata.tp_status & libc::TP_STATUS_VLAN_TPID_VALID {
                0 => libc::ETH_P_8021Q as u16,
                _ => auxdata.tp_vlan_tpid,
            };
            return Some((tpid, auxdata.tp_vlan_tci));
        }
        // SAFETY: as for CMSG_FIRSTHDR; `control` is a message of this header.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}

const AUXDATA: usize = size_of::<libc::tpacket_auxdata>();

/// sendmmsg(2) of up to [`BATCH`] frames, without blocking; how many the kernel took. The error, if
/// any, is of the first frame.
pub(super) fn send_batch(fd: BorrowedFd<'_>, frames: &[&Frame]) -> io::Result<usize> {
    let count = frames.len().min(BATCH);
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; BATCH];
    // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (index, frame) in frames[..count].iter().enumerate() {
        let raw = frame.raw();
        vectors[index].iov_base = raw.as_ptr().cast_mut().cast();
        vectors[index].iov_len = raw.len();
        let header = &mut messages[index].msg_hdr;
        header.msg_iov = &raw mut vectors[index];
        header.msg_iovlen = 1;
    }
    // SAFETY: `count` headers are filled in above; each points to an iovec and a frame's bytes that
    // outlive the call, and the kernel only reads the bytes.
    let sent = check(unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as _,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    })?;
    Ok(sent as usize)
}

/// Switches a feature of the interface `name` off, of the calling thread's network namespace. False
/// if the kernel knows no such feature.
///
/// # Errors
/// There is no such interface, or CAP_NET_ADMIN is missing.
pub fn switch_feature_off(name: &str, feature: &str) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let fd = socket.as_fd();
    // Each a command of <linux/ethtool.h>, as words of 32 bits, with its answer behind it.
    let mut count = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    ethtool(fd, name, &mut count)?;
    // Bit 0 of the mask comes back clear when there is no such set.
    let features = if count[2] == 0 { 0 } else { count[4] };
    let mut names = vec![0; 3 + features as usize * FEATURE_NAME];
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, features]);
    ethtool(fd, name, &mut names)?;
    let is_it = |words: &[u32]| {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.take_while(|byte| *byte != 0).eq(feature.bytes())
    };
    let Some(index) = names[3..].chunks(FEATURE_NAME).position(is_it) else {
        return Ok(false);
    };
    let blocks = (features as usize).div_ceil(32);
    // Pairs of what is to change, and to what.
    let mut change = vec![0; 2 + 2 * blocks];
    change[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
    change[2 + index / 32 * 2] = 1 << (index % 32);
    ethtool(fd, name, &mut change)?;
    Ok(true)
}

/// Commands of `<linux/ethtool.h>`, the set of names of features, and the words that one name
/// takes.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const FEATURE_NAME: usize = 8;

/// SIOCETHTOOL with a command and room for its answer, which must be as large as the command says.
fn ethtool(fd: BorrowedFd<'_>, name: &str, command: &mut [u32]) -> io::Result<()> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads one ifreq and the command it points to, and writes the answer
    // behind that: for GSSET_INFO a word for each bit of the mask, for GSTRINGS as many names as
    // there are features (a number that a kernel never changes), for SFEATURES nothing. The callers
    // above give that much room, and all of it outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) })?;
    Ok(())
}

/// An ifreq of the interface `name` (1 to 15 bytes).
fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid ifreq: a name of NULs and a union of plain integers and pointers.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // The last byte stays NUL.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// pidfd_send_signal(2): sends the process behind a pidfd a signal, real-time ones too. ENOSYS
/// before Linux 5.1.
pub fn signal_descriptor(process: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let no_info: *const libc::siginfo_t = ptr::null();
    // SAFETY: all arguments are passed by value; a null siginfo means the one that kill(2) makes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            no_info,
            0,
        )
    };
    check(result as c_int).map(drop)
}

/// kill(2) of one process, by any signal number.
///
/// # Errors
/// EINVAL if `pid` is not above 0, which would mean a group of processes.
pub fn signal_process(pid: i32, signal: c_int) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: both arguments are passed by value.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// seccomp(2): runs `program` at each system call of the calling thread and of the threads that it
/// starts from now on. The thread must have no_new_privs.
///
/// Without the mitigation of speculative store bypass that kernels from 4.17 to 5.15 would force on
/// filtered threads: it slows all their work down, and nothing here runs foreign code.
///
/// # Errors
/// The kernel has no seccomp filters (ENOSYS, EINVAL), or refuses the program.
pub fn filter_system_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = program.len().try_into();
    let fprog = libc::sock_fprog {
        len: length.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: program.as_ptr().cast_mut(),
    };
    let install = |flags: libc::c_ulong| {
        // SAFETY: the kernel copies as many instructions as the structure says there are, during
        // the call, and writes to none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const fprog,
            )
        };
        check(result as c_int).map(drop)
    };
    match install(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        // Before Linux 4.17 there is no such flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(0),
        outcome => outcome,
    }
}

/// Marks all descriptors from `first` on to be closed by execve(2): close_range(2), or one by one
/// before Linux 5.11.
///
/// # Errors
/// The kernel has no such call, and /proc is not there.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: all arguments are passed by value, and no descriptor is closed here.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|it| it.parse().ok());
        let Some(number) = number.filter(|number: &u32| *number >= first) else {
            continue;
        };
        // SAFETY: by value; a number that is no descriptor any more is an error (EBADF).
        unsafe { libc::fcntl(number as c_int, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// As [`send_batch`], of the frames' IP packets without their Ethernet headers, on the interface
/// `ifindex`, which has none. Such an interface has no header to find the protocol in, so it is said
/// beside each packet.
pub(super) fn send_packets(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    frames: &[&Frame],
) -> io::Result<usize> {
    let count = frames.len().min(BATCH);
    let mut headers = [[0; VNET_HEADER]; BATCH];
    // SAFETY: all-zero is a valid sockaddr_ll: plain integers.
    let mut addresses: [libc::sockaddr_ll; BATCH] = unsafe { zeroed() };
    let mut vectors = [[libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; 2]; BATCH];
    // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (index, frame) in frames[..count].iter().enumerate() {
        headers[index] = frame.packet_vnet().encode();
        let ethertype = frame::ethertype_of(frame.bytes()).unwrap_or_default();
        addresses[index].sll_family = libc::AF_PACKET as u16;
        addresses[index].sll_protocol = ethertype.to_be();
        addresses[index].sll_ifindex = ifindex as c_int;
        let packet = frame.bytes().get(ETHERNET_HEADER..).unwrap_or_default();
        for (vector, part) in vectors[index].iter_mut().zip([&headers[index][..], packet]) {
            vector.iov_base = part.as_ptr().cast_mut().cast();
            vector.iov_len = part.len();
        }
        let header = &mut messages[index].msg_hdr;
        header.msg_name = (&raw mut addresses[index]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        header.msg_iov = vectors[index].as_mut_ptr();
        header.msg_iovlen = 2;
    }
    // SAFETY: `count` headers are filled in above; each points to an address, two iovecs, a vnet
    // header and a frame's bytes that outlive the call, and the kernel only reads them.
    let sent = check(unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as _,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    })?;
    Ok(sent as usize)
}
