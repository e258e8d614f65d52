// The C++ OpenIGTLink library as a peer for link_comparison.py.
//
//   openigtlink_peer send PORT pose|picture COUNT RATE     serves one client: COUNT messages, RATE per second (0: at once)
//   openigtlink_peer receive PORT COUNT                    a client: reads, checks and unpacks COUNT messages
//
// A message carries the wall clock of its sending. Each receiver prints "seconds COUNT" and then one latency a line, in
// seconds.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#include <sys/time.h>
#include <time.h>

#include "igtlClientSocket.h"
#include "igtlImageMessage.h"
#include "igtlMessageHeader.h"
#include "igtlServerSocket.h"
#include "igtlTimeStamp.h"
#include "igtlTransformMessage.h"

static double wallClock()
{
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

// A new message each time, since one that was packed once is not packed again.
static igtl::MessageBase::Pointer makeMessage(const std::string& kind)
{
  if (kind == "pose")
  {
    igtl::TransformMessage::Pointer transform = igtl::TransformMessage::New();
    transform->SetDeviceName("StylusToTracker");
    igtl::Matrix4x4 matrix = { { 1, 0, 0, 10 }, { 0, 1, 0, 20 }, { 0, 0, 1, 30 }, { 0, 0, 0, 1 } };
    transform->SetMatrix(matrix);
    return igtl::MessageBase::Pointer(transform.GetPointer());
  }
  igtl::ImageMessage::Pointer image = igtl::ImageMessage::New();
  image->SetDeviceName("Image_Detector");
  image->SetDimensions(1024, 1024, 1);
  image->SetScalarType(igtl::ImageMessage::TYPE_UINT16);
  image->AllocateScalars();
  static std::vector<unsigned short> pixels;
  for (unsigned int index = 0; pixels.size() < 1024 * 1024; ++index)
  {
    pixels.push_back(static_cast<unsigned short>(index * 2654435761u >> 13));
  }
  memcpy(image->GetScalarPointer(), pixels.data(), 2 * pixels.size());
  return igtl::MessageBase::Pointer(image.GetPointer());
}

static int send(int port, const std::string& kind, int count, double rate)
{
  igtl::ServerSocket::Pointer server = igtl::ServerSocket::New();
  if (server->CreateServer(port) < 0)
  {
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  igtl::ClientSocket::Pointer socket = server->WaitForConnection(20000);
  if (socket.IsNull())
  {
    return 1;
  }
  igtl::TimeStamp::Pointer stamp = igtl::TimeStamp::New();
  makeMessage(kind);
  const double start = wallClock() + 0.5;
  for (int index = 0; index < count; ++index)
  {
    const double due = rate > 0 ? start + index / rate : 0;
    while (wallClock() < due)
    {
      timespec pause = { 0, 50000 };
      nanosleep(&pause, nullptr);
    }
    stamp->SetTime(wallClock());
    igtl::MessageBase::Pointer message = makeMessage(kind);
    message->SetTimeStamp(stamp);
    message->Pack();
    if (!socket->Send(message->GetPackPointer(), message->GetPackSize()))
    {
      return 1;
    }
  }
  // Until the peer has read all of it and leaves.
  char byte;
  while (socket->Receive(&byte, 1) > 0)
  {
  }
  socket->CloseSocket();
  return 0;
}

static int receiveAll(igtl::Socket* socket, int count)
{
  std::vector<double> latencies;
  double start = 0;
  igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
  igtl::TimeStamp::Pointer stamp = igtl::TimeStamp::New();
  for (int received = 0; received < count;)
  {
    header->InitPack();
    if (socket->Receive(header->GetPackPointer(), header->GetPackSize()) != header->GetPackSize())
    {
      return 1;
    }
    header->Unpack();
    igtl::MessageBase::Pointer message;
    if (!strcmp(header->GetDeviceType(), "TRANSFORM"))
    {
      message = igtl::TransformMessage::New().GetPointer();
    }
    else if (!strcmp(header->GetDeviceType(), "IMAGE"))
    {
      message = igtl::ImageMessage::New().GetPointer();
    }
    else
    {
      socket->Skip(header->GetBodySizeToRead(), 0);
      continue;
    }
    message->SetMessageHeader(header);
    message->AllocatePack();
    socket->Receive(message->GetPackBodyPointer(), message->GetPackBodySize());
    if (!(message->Unpack(1) & igtl::MessageHeader::UNPACK_BODY))
    {
      return 1;
    }
    const double now = wallClock();
    if (!start)
    {
      start = now;
    }
    message->GetTimeStamp(stamp);
    latencies.push_back(now - stamp->GetTimeStamp());
    ++received;
  }
  printf("%.6f %d\n", wallClock() - start, count);
  for (double latency : latencies)
  {
    printf("%.7f\n", latency);
  }
  return 0;
}

int main(int argc, char* argv[])
{
  const std::string what = argc > 3 ? argv[1] : "";
  const int port = argc > 2 ? atoi(argv[2]) : 0;
  if (what == "send" && argc == 6)
  {
    return send(port, argv[3], atoi(argv[4]), atof(argv[5]));
  }
  if (what == "receive" && argc == 4)
  {
    igtl::ClientSocket::Pointer socket = igtl::ClientSocket::New();
    return socket->ConnectToServer("127.0.0.1", port) ? 1 : receiveAll(socket, atoi(argv[3]));
  }
  fprintf(stderr, "usage: openigtlink_peer send PORT pose|picture COUNT RATE | receive PORT COUNT\n");
  return 2;
}
