//! A classifier at the tc ingress of an interface of the host's, which drops what is for the switch
//! alone before netfilter and the host's stack see it.
//!
//! It has a priority and a handle of its own and disturbs nobody else's. The qdisc that it needs
//! (clsact) is made if there is none, and taken away again if it was made here and has become
//! empty; the handle says so, for a later daemon too.

use std::io;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use switch::io::sock_filter;

use super::Result;
use super::session::{Session, in_session};

/// Early, so that nobody else's verdict comes before; not the first, which others count on.
const PRIORITY: u16 = 7;
/// Of the classifier; and of one whose qdisc was made for it.
const HANDLE: u32 = 0x706f_6e74;
const HANDLE_WITH_QDISC: u32 = 0x706f_6e75;

const CLSACT: &str = "clsact";
const BPF: &str = "bpf";
/// Attributes of cls_bpf that hold a classic program (linux/pkt_cls.h).
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// ETH_P_ALL in network byte order, as tc puts it beside the priority.
const EVERY_PROTOCOL: u32 = 3u16.to_be() as u32;

const INGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: TcHandle::MIN_INGRESS,
};
const EGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: TcHandle::MIN_EGRESS,
};

/// Puts the classifier on an interface, or replaces its program in one step.
///
/// # Errors
/// The kernel has no clsact or no cls_bpf with direct action, the right is missing, or somebody
/// else's classifier comes first and might let through what is to be dropped.
pub(crate) fn attach(index: u32, program: &[sock_filter]) -> Result<()> {
    in_session(async |session| session.attach(index, program).await)
}

/// Takes the classifier off interfaces, where it is there; and the qdisc that was made for it, if
/// nobody else uses that. Goes on to the end, and tells the first error.
pub(crate) fn detach(indexes: &[u32]) -> Result<()> {
    in_session(async |session| {
        let mut outcome = Ok(());
        for index in indexes {
            outcome = outcome.and(session.detach(*index).await);
        }
        outcome
    })
}

/// Whether an interface has the classifier, and nobody else's comes first.
pub(crate) fn is_attached(index: u32) -> Result<bool> {
    in_session(async |session| {
        let filters = session.filters(index, INGRESS).await?;
        Ok(filters.iter().any(Classifier::is_ours) && !filters.iter().any(Classifier::is_before))
    })
}

/// One that an interface has.
struct Classifier {
    priority: u16,
    handle: u32,
    kind: String,
}

impl Classifier {
    fn is_ours(&self) -> bool {
        let handles = [HANDLE, HANDLE_WITH_QDISC];
        self.kind == BPF && self.priority == PRIORITY && handles.contains(&self.handle)
    }

    fn is_before(&self) -> bool {
        self.handle != 0 && self.priority < PRIORITY
    }
}

impl Session {
    async fn attach(&self, index: u32, program: &[sock_filter]) -> Result<()> {
        let action = || format!("put a classifier on interface {index}");
        let filters = self.filters(index, INGRESS).await?;
        if filters.iter().any(Classifier::is_before) {
            let cause = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(self.failed(action(), cause, ": another classifier comes first"));
        }
        let known = filters.iter().find(|filter| filter.is_ours());
        let handle = match known {
            Some(filter) => filter.handle,
            None if self.make_qdisc(index).await? => HANDLE_WITH_QDISC,
            None => HANDLE,
        };
        let mut message = classifier(index, handle);
        // One instruction: a half, two bytes and a word, as the machine has them.
        let bytes = program.iter().flat_map(|instruction| {
            let [a, b] = instruction.code.to_ne_bytes();
            let [e, f, g, h] = instruction.k.to_ne_bytes();
            [a, b, instruction.jt, instruction.jf, e, f, g, h]
        });
        // Below the kernel's 4096.
        let length = program.len() as u16;
        let length = DefaultNla::new(TCA_BPF_OPS_LEN, length.to_ne_bytes().to_vec());
        let instructions = DefaultNla::new(TCA_BPF_OPS, bytes.collect());
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::Other(length)),
            TcOption::Bpf(TcFilterBpfOption::Other(instructions)),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        let outcome = self.ask(request, NLM_F_CREATE).await;
        if outcome.is_err() && known.is_none() && handle == HANDLE_WITH_QDISC {
            _ = self.remove_qdisc(index).await;
        }
        outcome.map_err(|error| self.failed(action(), error, ""))
    }

    async fn detach(&self, index: u32) -> Result<()> {
        let filters = self.filters(index, INGRESS).await?;
        let Some(ours) = filters.iter().find(|filter| filter.is_ours()) else {
            return Ok(());
        };
        let action = || format!("take the classifier off interface {index}");
        let message = classifier(index, ours.handle);
        let request = RouteNetlinkMessage::DelTrafficFilter(message);
        let gone = self.ask(request, 0).await;
        gone.map_err(|error| self.failed(action(), error, ""))?;
        if ours.handle == HANDLE_WITH_QDISC
            && self.filters(index, INGRESS).await?.is_empty()
            && self.filters(index, EGRESS).await?.is_empty()
        {
            let gone = self.remove_qdisc(index).await;
            gone.map_err(|error| self.failed(action(), error, ""))?;
        }
        Ok(())
    }

    /// Makes a clsact; false if there is one, or an ingress qdisc, which does as well.
    async fn make_qdisc(&self, index: u32) -> Result<bool> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match self.ask(request, NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => {
                let action = format!("make a clsact qdisc on interface {index}");
                Err(self.failed(action, error, ""))
            }
        }
    }

    async fn remove_qdisc(&self, index: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelQueueDiscipline(clsact(index));
        self.ask(request, 0).await
    }

    /// The classifiers at one end of an interface's clsact; none if it has none.
    async fn filters(&self, index: u32, parent: TcHandle) -> Result<Vec<Classifier>> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = parent;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let action = || format!("list the classifiers of interface {index}");
        let mut answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|error| self.refused(action(), &error))?;
        let mut filters = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(message)) => {
                    let kind = message.attributes.iter().find_map(|it| match it {
                        TcAttribute::Kind(kind) => Some(kind.clone()),
                        _ => None,
                    });
                    filters.push(Classifier {
                        priority: (message.header.info >> 16) as u16,
                        handle: message.header.handle.into(),
                        kind: kind.unwrap_or_default(),
                    });
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(self.failed(action(), error.to_io(), ""));
                }
                _ => {}
            }
        }
        Ok(filters)
    }

    /// One change, and the kernel's word on it.
    async fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let answers = self.handle.clone().request(request);
        let mut answers = answers.map_err(|error| io::Error::other(error.to_string()))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                // As an errno, whose kind callers ask for.
                return Err(Errno::from_raw(error.raw_code().saturating_abs()).into());
            }
        }
        Ok(())
    }
}

fn classifier(index: u32, handle: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = INGRESS;
    message.header.handle = handle.into();
    message.header.info = u32::from(PRIORITY) << 16 | EVERY_PROTOCOL;
    message.attributes.push(TcAttribute::Kind(BPF.to_owned()));
    message
}

fn clsact(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message
        .attributes
        .push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}
