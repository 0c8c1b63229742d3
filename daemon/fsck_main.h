/* fsck_main.h: `dhad fsck`: what fsck.h does, on a state directory that no daemon uses. It takes the daemon's lock while it
 * looks; a repair opens the store as a daemon would (and so upgrades it). */
#ifndef DHA_DAEMON_FSCK_MAIN_H
#define DHA_DAEMON_FSCK_MAIN_H

/* argv[0] is "fsck". Returns the exit status. */
int fsck_main(int argc, char **argv);

#endif
