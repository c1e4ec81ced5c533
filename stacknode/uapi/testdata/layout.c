/* SPDX-License-Identifier: MIT */
/*
 * layout.c: the ABI as a C compiler sees it, one fact a line:
 *	struct.field offset size
 *	struct size
 *	CONSTANT value
 * abi.golden is what it prints, on 32 and on 64 bit.
 */
#include <stddef.h>
#include <stdio.h>

#include "../stackfs.h"

#define STRUCT(s)	printf("%s %zu\n", #s, sizeof(struct s))
#define FIELD(s, f) \
	printf("%s.%s %zu %zu\n", #s, #f, offsetof(struct s, f), \
	       sizeof(((struct s *)0)->f))
#define CONSTANT(c)	printf("%s %#llx\n", #c, (unsigned long long)(c))

int main(void)
{
	STRUCT(stackfs_version);
	FIELD(stackfs_version, major);
	FIELD(stackfs_version, minor);
	FIELD(stackfs_version, features);
	FIELD(stackfs_version, resv);

	STRUCT(stackfs_info);
	FIELD(stackfs_info, kind);
	FIELD(stackfs_info, flags);
	FIELD(stackfs_info, families);
	FIELD(stackfs_info, netns_cookie);
	FIELD(stackfs_info, name);
	FIELD(stackfs_info, resv);

	STRUCT(stackfs_msocket);
	FIELD(stackfs_msocket, domain);
	FIELD(stackfs_msocket, type);
	FIELD(stackfs_msocket, protocol);
	FIELD(stackfs_msocket, flags);
	FIELD(stackfs_msocket, reply_cookie);
	FIELD(stackfs_msocket, reply_fd);
	FIELD(stackfs_msocket, result);
	FIELD(stackfs_msocket, resv);

	STRUCT(stackfs_run);
	FIELD(stackfs_run, listener_fd);
	FIELD(stackfs_run, flags);
	FIELD(stackfs_run, families);
	FIELD(stackfs_run, ticket);
	FIELD(stackfs_run, resv);

	STRUCT(stackfs_restore);
	FIELD(stackfs_restore, reply_cookie);
	FIELD(stackfs_restore, reply_fd);
	FIELD(stackfs_restore, flags);
	FIELD(stackfs_restore, resv);

	STRUCT(stackfs_listen);
	FIELD(stackfs_listen, reply_cookie);
	FIELD(stackfs_listen, reply_fd);
	FIELD(stackfs_listen, listener_fd);
	FIELD(stackfs_listen, listener_cookie);
	FIELD(stackfs_listen, flags);
	FIELD(stackfs_listen, box_size);
	FIELD(stackfs_listen, resv);

	STRUCT(stackfs_clone);
	FIELD(stackfs_clone, cookie);
	FIELD(stackfs_clone, resv);

	STRUCT(stackfs_slot);
	FIELD(stackfs_slot, tid);
	FIELD(stackfs_slot, flags);
	FIELD(stackfs_slot, clone);
	FIELD(stackfs_slot, local);
	FIELD(stackfs_slot, remote);
	FIELD(stackfs_slot, arrived);
	FIELD(stackfs_slot, resv);

	STRUCT(stackfs_page);
	FIELD(stackfs_page, magic);
	FIELD(stackfs_page, version);
	FIELD(stackfs_page, slots);
	FIELD(stackfs_page, resv0);
	FIELD(stackfs_page, workers);
	FIELD(stackfs_page, mode);
	FIELD(stackfs_page, reason);
	FIELD(stackfs_page, resv1);
	FIELD(stackfs_page, since);
	FIELD(stackfs_page, shared);
	FIELD(stackfs_page, resv2);

	STRUCT(stackfs_chan_req);
	FIELD(stackfs_chan_req, seq);
	FIELD(stackfs_chan_req, flags);
	FIELD(stackfs_chan_req, domain);
	FIELD(stackfs_chan_req, type);
	FIELD(stackfs_chan_req, protocol);
	FIELD(stackfs_chan_req, resv);

	STRUCT(stackfs_chan_rep);
	FIELD(stackfs_chan_rep, seq);
	FIELD(stackfs_chan_rep, error);
	FIELD(stackfs_chan_rep, flags);
	FIELD(stackfs_chan_rep, resv);

	CONSTANT(STACKFS_ABI_MAJOR);
	CONSTANT(STACKFS_ABI_MINOR);
	CONSTANT(STACKFS_FEATURE_CONNS);
	CONSTANT(STACKFS_FEATURE_FAST);
	CONSTANT(STACKFS_KIND_KERNEL);
	CONSTANT(STACKFS_KIND_NETNS);
	CONSTANT(STACKFS_KIND_NULL);
	CONSTANT(STACKFS_KIND_FAST);
	CONSTANT(STACKFS_INFO_SELF);
	CONSTANT(STACKFS_INFO_FOREIGN);
	CONSTANT(STACKFS_INFO_ETC);
	CONSTANT(STACKFS_MSOCKET_MAKE);
	CONSTANT(STACKFS_RESULT_SENT);
	CONSTANT(STACKFS_RESULT_SELF);
	CONSTANT(STACKFS_CHAN_CLOSED);
	CONSTANT(STACKFS_BOX_MORE);
	CONSTANT(STACKFS_PAGE_MAGIC);
	CONSTANT(STACKFS_PAGE_VERSION);
	CONSTANT(STACKFS_STEER_NONE);
	CONSTANT(STACKFS_STEER_BALANCED);
	CONSTANT(STACKFS_STEER_SKEWED);
	CONSTANT(STACKFS_STEER_OFF);
	CONSTANT(STACKFS_SLOT_TAGGED);
	CONSTANT(STACKFS_SLOT_PINNED);
	CONSTANT(STACKFS_RUN_DOMAIN);
	CONSTANT(STACKFS_IOC_VERSION);
	CONSTANT(STACKFS_IOC_INFO);
	CONSTANT(STACKFS_IOC_MSOCKET);
	CONSTANT(STACKFS_IOC_RUN);
	CONSTANT(STACKFS_IOC_RESTORE);
	CONSTANT(STACKFS_IOC_LISTEN);
	return 0;
}
