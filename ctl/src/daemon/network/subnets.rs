//! Which families, subnets and gateways a new network gets.
//!
//! Both families unless told otherwise, where the host uses IPv6: a network of which nobody said
//! anything gets an IPv4 subnet of the default pools and a /64 of the daemon's own unique local
//! prefix (RFC 4193). A network without IPv6 has none at all: it is off on the containers'
//! interfaces, link-local addresses included (CVE-2024-32473).

use std::net::IpAddr;

use ipnet::IpNet;
use switch::io::has_ipv6;

use super::{Daemon, Failure, list, pools, refused};
use crate::api::CreateNetwork;
use crate::ipam::{self, AddressPool, IpamError};

/// The smallest MTU of a link that carries IPv6 (RFC 8200 clause 5). Linux turns it off below.
const IPV6_MTU: u32 = 1280;

impl Daemon {
    /// The subnets of a new network, IPv4 ones first, each with its gateway.
    pub(super) fn choose_subnets(
        &self,
        request: &CreateNetwork,
        mtu: u32,
    ) -> Result<Vec<(IpNet, IpAddr)>, Failure> {
        let (ipv4, ipv6) = self.choose_families(request, mtu)?;
        let mut occupied = self.host.occupied();
        let networks = self.networks.iter();
        let others = networks.flat_map(|network| network.record.subnets.iter().copied());
        occupied.networks.extend(others);
        let mut subnets = Vec::new();
        for &subnet in &request.subnets {
            let subnet = ipam::check_subnet(subnet, &occupied).map_err(refused)?;
            occupied.networks.push(subnet);
            subnets.push(subnet);
        }
        if ipv4 && !subnets.iter().any(|subnet| subnet.addr().is_ipv4()) {
            let pools = self.pools(false).unwrap_or_else(AddressPool::defaults);
            subnets.push(ipam::choose_subnet(&pools, &occupied).map_err(refused)?);
        }
        if ipv6 && !subnets.iter().any(|subnet| subnet.addr().is_ipv6()) {
            let chosen = match self.pools(true) {
                Some(pools) => ipam::choose_subnet(&pools, &occupied),
                None => ipam::choose_ula(self.ula, &occupied),
            };
            match chosen {
                Ok(subnet) => subnets.push(subnet),
                Err(error) if request.ipv6 == Some(true) || !ipv4 => return Err(refused(error)),
                Err(error) => tracing::warn!("network {} is IPv4 only: {error}", request.name),
            }
        }
        for &subnet in &subnets {
            if let Some(route) = occupied.covering(subnet) {
                tracing::warn!(
                    "network {} takes {subnet} out of {route}, which the host reaches elsewhere; \
                     name another one with --subnet if it is in use there",
                    request.name
                );
            }
        }
        subnets.sort_by_key(|subnet| subnet.addr().is_ipv6());
        let gateways = choose_gateways(&subnets, &request.gateways)?;
        pools(&subnets, &gateways, &request.options)?;
        Ok(subnets.into_iter().zip(gateways).collect())
    }

    /// The pools of a family that the daemon was given; none if it was given none.
    fn pools(&self, is_ipv6: bool) -> Option<Vec<AddressPool>> {
        let pools = self.pools.iter().copied();
        let pools: Vec<_> = pools.filter(|pool| pool.is_ipv6() == is_ipv6).collect();
        (!pools.is_empty()).then_some(pools)
    }

    /// Whether a new network has IPv4, and whether it has IPv6.
    fn choose_families(&self, request: &CreateNetwork, mtu: u32) -> Result<(bool, bool), Failure> {
        let named = |is_ipv6: bool| {
            request
                .subnets
                .iter()
                .find(|subnet| subnet.addr().is_ipv6() == is_ipv6)
        };
        for (named, wanted, option) in [
            (named(false), request.ipv4, "--ipv4=false"),
            (named(true), request.ipv6, "--ipv6=false"),
        ] {
            if let (Some(subnet), Some(false)) = (named, wanted) {
                return Err(Failure::Invalid(format!(
                    "{option} contradicts the subnet {subnet}: leave one of them out"
                )));
            }
        }
        let ipv4 = request.ipv4.unwrap_or(true);
        let wanted = request.ipv6.or(named(true).map(|_| true));
        let ipv6 = wanted.unwrap_or(self.ipv6 && mtu >= IPV6_MTU);
        if ipv6 && !has_ipv6() {
            return Err(Failure::Invalid(
                "this kernel has no IPv6: leave it out (--ipv6=false)".to_owned(),
            ));
        }
        if ipv6 && mtu < IPV6_MTU {
            return Err(Failure::Invalid(format!(
                "IPv6 needs an MTU of at least {IPV6_MTU}: raise it from {mtu}, or leave IPv6 out \
                 (--ipv6=false)"
            )));
        }
        if !ipv4 && !ipv6 {
            return Err(Failure::Invalid(
                "a network without IPv4 needs IPv6: --ipv6, or a --subnet of it".to_owned(),
            ));
        }
        Ok((ipv4, ipv6))
    }
}

/// One gateway for each subnet: that of `wanted` which lies in it, or its first address.
fn choose_gateways(subnets: &[IpNet], wanted: &[IpAddr]) -> Result<Vec<IpAddr>, Failure> {
    let mut gateways: Vec<Option<IpAddr>> = vec![None; subnets.len()];
    for &gateway in wanted {
        let Some(at) = subnets.iter().position(|subnet| subnet.contains(&gateway)) else {
            return Err(refused(IpamError::Outside {
                address: gateway,
                subnets: list(subnets),
            }));
        };
        if let Some(other) = gateways[at].replace(gateway) {
            return Err(Failure::Invalid(format!(
                "subnet {} can't have two gateways, {other} and {gateway}",
                subnets[at]
            )));
        }
    }
    let chosen = gateways.into_iter().zip(subnets);
    Ok(chosen
        .map(|(gateway, subnet)| gateway.unwrap_or_else(|| ipam::default_gateway(*subnet)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subnet_has_the_gateway_named_in_it_or_its_first_address() {
        let subnets: [IpNet; 2] = ["10.1.0.0/16", "fd00:1::/64"].map(|text| text.parse().unwrap());
        let choose = |wanted: &[&str]| {
            let wanted: Vec<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
            let gateways = choose_gateways(&subnets, &wanted).map_err(|error| error.to_string())?;
            Ok::<_, String>(gateways.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(choose(&[]).unwrap(), ["10.1.0.1", "fd00:1::1"]);
        assert_eq!(choose(&["fd00:1::ff"]).unwrap(), ["10.1.0.1", "fd00:1::ff"]);
        assert!(
            choose(&["10.2.0.1"])
                .unwrap_err()
                .contains("10.1.0.0/16, fd00:1::/64")
        );
        let two = choose(&["10.1.0.1", "10.1.0.2"]).unwrap_err();
        assert!(two.contains("two gateways"), "{two}");
    }
}
